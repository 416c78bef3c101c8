//! How much of a message is parsed and kept. The raw octets always have all of it.

/// Octets of one header section that are read.
pub const MAX_HEADER_OCTETS: usize = 512 * 1024;
/// Fields of one header section that are kept.
pub const MAX_HEADER_FIELDS: usize = 1_000;
/// Octets of one header field that are read.
pub const MAX_FIELD_OCTETS: usize = 64 * 1024;
/// Characters of a field name that are kept.
pub const MAX_FIELD_NAME_CHARS: usize = 128;
/// Characters of the subject; `headers` has more of it.
pub const MAX_SUBJECT_CHARS: usize = 2_000;
/// Addresses of one list.
pub const MAX_ADDRESSES: usize = 500;
/// Characters of a display name.
pub const MAX_NAME_CHARS: usize = 256;
/// Characters of an address: RFC 5321 allows 320, wrong ones are kept for a look.
pub const MAX_ADDRESS_CHARS: usize = 512;
/// Characters of a message id: the longest line of RFC 5322.
pub const MAX_ID_CHARS: usize = 998;
/// Ids of `References`; the newest are kept.
pub const MAX_REFERENCES: usize = 100;
/// Octets of UTF-8 kept of the plain and of the HTML body each.
pub const MAX_TEXT_OCTETS: usize = 1024 * 1024;
/// Characters of the preview.
pub const MAX_PREVIEW_CHARS: usize = 200;
/// Attachments listed.
pub const MAX_ATTACHMENTS: usize = 500;
/// Characters of a file name.
pub const MAX_FILENAME_CHARS: usize = 255;
/// Body parts looked at, multiparts included.
pub const MAX_PARTS: usize = 1_000;
/// Multiparts within multiparts. One beyond is listed whole as an attachment.
pub const MAX_NESTING: usize = 20;
/// Notes kept.
pub const MAX_NOTES: usize = 30;
