//! Address lists (RFC 5322 §3.4) with their groups flattened.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use super::header::Head;
use super::limits::{MAX_ADDRESS_CHARS, MAX_ADDRESSES, MAX_NAME_CHARS};
use super::notes::Notes;
use super::{Address, clean};

/// Every address of every field of that name.
pub(super) fn addresses(head: &Head<'_>, name: &str, notes: &mut Notes) -> Vec<Address> {
    let mut found = Vec::new();
    for field in head.all(name) {
        let value = head.field_value(field);
        let HeaderValue::Address(list) = MessageStream::new(&value).parse_address() else {
            continue;
        };
        for address in list.iter() {
            if found.len() >= MAX_ADDRESSES {
                notes.add(format!(
                    "The field {name} was cut at {MAX_ADDRESSES} addresses."
                ));
                return found;
            }
            let mut part = |value: Option<&str>, max, what| {
                value
                    .map(|text| clean::limited(text.trim(), max, what, notes))
                    .filter(|text| !text.is_empty())
            };
            let address = Address {
                name: part(address.name(), MAX_NAME_CHARS, "name of an address"),
                address: part(address.address(), MAX_ADDRESS_CHARS, "address"),
            };
            if address != Address::default() {
                found.push(address);
            }
        }
    }
    found
}
