//! Reading requests: every mistake is a problem that says where it is.

use std::{collections::BTreeMap, error::Error};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::{Error as Located, Segment};

use super::problem::{Code, Mistake, Problem};

/// The parameters of the path. One that cannot be an id is an address with nothing there.
#[derive(Debug)]
pub(super) struct Ids<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Ids<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(Problem::not_found()),
        }
    }
}

/// The query. `T` refuses parameters that it does not know.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let rejection = match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => return Ok(Self(params)),
            Err(rejection) => rejection,
        };
        let problem = Problem::new(Code::InvalidQuery, "A query parameter cannot be used.");
        let first: &dyn Error = &rejection;
        let located = std::iter::successors(Some(first), |&error| error.source())
            .find_map(|error| error.downcast_ref::<Located<serde::de::value::Error>>());
        Err(match located {
            Some(error) => problem.at(pointer(error.path()), error.inner().to_string()),
            None => problem.at("", rejection.to_string()),
        })
    }
}

/// A JSON body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "Send the body as JSON, with the header `content-type: application/json`.",
            ));
        }
        let octets =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => {
                        Problem::from_status(StatusCode::PAYLOAD_TOO_LARGE)
                    }
                    _ => Problem::new(Code::BadRequest, "The body could not be read to its end."),
                })?;
        let value: Value = serde_json::from_slice(&octets).map_err(|error| {
            Problem::new(
                Code::MalformedJson,
                format!("The body is not JSON: {error}."),
            )
        })?;
        serde_path_to_error::deserialize(value)
            .map(Self)
            .map_err(|error| {
                let mut mistakes = Mistakes::default();
                mistakes.add(pointer(error.path()), error.inner().to_string());
                mistakes.into_problem()
            })
    }
}

fn is_json(request: &Request) -> bool {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let Some(media_type) = media_type.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json"
        || essence.starts_with("application/") && essence.ends_with("+json")
}

/// A field of a body that may be absent. One with a wrong value does not fail the body: so all
/// mistakes can be told at once.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    /// Not in the body.
    #[default]
    Absent,
    /// As given.
    Given(T),
    /// Not what it should be.
    Wrong(Mistake),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match serde_path_to_error::deserialize(value) {
            Ok(value) => Self::Given(value),
            Err(error) => Self::Wrong(Mistake {
                pointer: pointer(error.path()),
                detail: error.inner().to_string(),
            }),
        })
    }
}

impl<T> Field<T> {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Puts what was given in its place; a wrong value is one of the mistakes.
    pub(super) fn put(self, place: &mut T, pointer: &str, mistakes: &mut Mistakes) {
        if let Some(value) = self.take(pointer, mistakes) {
            *place = value;
        }
    }

    /// What was given; a wrong value is one of the mistakes.
    pub(super) fn take(self, pointer: &str, mistakes: &mut Mistakes) -> Option<T> {
        match self {
            Self::Absent => None,
            Self::Given(value) => Some(value),
            Self::Wrong(mistake) => {
                mistakes.add(format!("{pointer}{}", mistake.pointer), mistake.detail);
                None
            }
        }
    }
}

/// What is wrong with a body, gathered.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Mistake {
            pointer: pointer.into(),
            detail: detail.into(),
        });
    }

    /// A mistake unless `holds`, or unless the field has one already.
    pub(super) fn check(&mut self, holds: bool, pointer: &str, detail: impl Into<String>) {
        if !holds && !self.0.iter().any(|mistake| mistake.pointer == pointer) {
            self.add(pointer, detail);
        }
    }

    /// Text of people: some, not too long, and without control characters.
    pub(super) fn check_text(&mut self, text: &str, max: usize, pointer: &str) {
        self.check(
            (1..=max).contains(&text.chars().count()),
            pointer,
            format!("must have 1 to {max} characters"),
        );
        self.check(
            !text.chars().any(char::is_control),
            pointer,
            "must not contain control characters",
        );
    }

    /// Fields that the body should not have, each with the reason that `why` knows.
    pub(super) fn refuse(
        &mut self,
        unknown: &BTreeMap<String, Value>,
        parent: &str,
        why: impl Fn(&str) -> Option<&'static str>,
    ) {
        for name in unknown.keys() {
            let detail = why(name).unwrap_or("is not a field of this body; check its spelling");
            self.add(format!("{parent}/{}", escape(name)), detail);
        }
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Problem> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.into_problem())
        }
    }

    fn into_problem(self) -> Problem {
        Problem::new(
            Code::ValidationFailed,
            "The body has mistakes; nothing was changed.",
        )
        .with_errors(self.0)
    }
}

/// The JSON pointer (RFC 6901) of a path.
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape(key)),
            Segment::Enum { variant } => format!("/{}", escape(variant)),
            Segment::Unknown => "/?".to_owned(),
        })
        .collect()
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Example {
        #[serde(default)]
        events: Field<Vec<String>>,
    }

    #[test]
    fn pointer_names_the_wrong_element() {
        let example: Example = serde_json::from_str(r#"{"events": ["a", 1]}"#).unwrap();
        let mut mistakes = Mistakes::default();
        assert!(example.events.take("/events", &mut mistakes).is_none());
        assert_eq!(mistakes.0[0].pointer, "/events/1");
    }

    #[test]
    fn names_are_escaped_in_pointers() {
        assert_eq!(escape("a/b~c"), "a~1b~0c");
    }
}
