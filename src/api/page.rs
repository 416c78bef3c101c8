//! Lists: pages in the order of ids, newest first, by an opaque cursor. Never an offset.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::problem::{Code, Problem};

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 500;

/// First octet of a cursor: what follows is the id that the next page comes after.
const CURSOR_VERSION: u8 = 1;

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    /// Items on a page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which page, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRequest {
    /// Only items with smaller ids.
    pub(super) before: Option<Uuid>,
    limit: i64,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items, newest first.
    items: Vec<T>,
    /// For the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl PageParams {
    pub(super) fn check(self) -> Result<PageRequest, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(
                Problem::new(Code::InvalidQuery, "A query parameter cannot be used.")
                    .at("/limit", format!("must be between 1 and {MAX_LIMIT}")),
            );
        }
        let before = match self.cursor {
            None => None,
            Some(cursor) => Some(decode(&cursor).ok_or_else(|| {
                Problem::new(
                    Code::InvalidCursor,
                    "Take `next_cursor` as it came from this list.",
                )
                .at("/cursor", "is not a cursor of this list")
            })?),
        };
        Ok(PageRequest { before, limit })
    }
}

impl PageRequest {
    /// How many items to fetch: one more than is shown tells whether there is a next page.
    pub(super) fn fetch(self) -> i64 {
        self.limit + 1
    }

    pub(super) fn page<T>(self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let limit = usize::try_from(self.limit).expect("the limit was checked");
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| encode(id(last)));
        Page { items, next_cursor }
    }
}

impl<T> Page<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

fn encode(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode([&[CURSOR_VERSION], id.as_bytes().as_slice()].concat())
}

fn decode(cursor: &str) -> Option<Uuid> {
    let octets = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    match octets.split_first()? {
        (&CURSOR_VERSION, id) => Uuid::from_slice(id).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_comes_back_and_nothing_else_does() {
        let id = Uuid::now_v7();
        assert_eq!(decode(&encode(id)), Some(id));
        for wrong in [
            "",
            "AA",
            "!",
            &id.to_string(),
            &URL_SAFE_NO_PAD.encode([2; 17]),
        ] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
