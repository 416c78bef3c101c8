//! `content-disposition` for a file name that a stranger chose (RFC 6266, RFC 8187).

use axum::http::HeaderValue;

/// Characters of a file name.
const MAX_NAME: usize = 150;

/// Disposition `attachment` with the name in ASCII and, where it has more, in UTF-8 too.
pub(super) fn content_disposition(name: &str) -> HeaderValue {
    let name = safe_name(name);
    let ascii: String = name
        .chars()
        .map(|c| if c.is_ascii() { c } else { '_' })
        .collect();
    let mut value = format!("attachment; filename=\"{ascii}\"");
    if ascii != name {
        value.push_str("; filename*=UTF-8''");
        for octet in name.bytes() {
            if octet.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&octet) {
                value.push(octet.into());
            } else {
                value.push_str(&format!("%{octet:02X}"));
            }
        }
    }
    HeaderValue::try_from(value).expect("only visible ASCII and spaces are left")
}

/// The name without anything that has a meaning to a file system, a shell or a reader's eye.
fn safe_name(name: &str) -> String {
    // Only the last step of a path, whichever way it is written.
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe: String = last
        .chars()
        .filter(|&c| !c.is_control() && !is_invisible(c))
        .map(|c| if "\"<>:|?*%;".contains(c) { '_' } else { c })
        .collect();
    // Leading dots hide files; Windows drops dots and spaces at the end.
    let safe = safe
        .trim_start_matches(['.', ' '])
        .trim_end_matches(['.', ' ']);
    let safe = shorten(safe);
    if safe.is_empty() {
        "attachment".to_owned()
    } else {
        safe
    }
}

/// Cuts in the middle, so that the extension stays.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    let tail = 20;
    name.chars()
        .take(MAX_NAME - tail)
        .chain(name.chars().skip(length - tail))
        .collect()
}

/// Marks that turn the direction of text or have no width: `exe.pdf` may be `fdp.exe`.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{061c}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_safe() {
        for (name, expected) in [
            ("report.pdf", "attachment; filename=\"report.pdf\""),
            ("../../etc/passwd", "attachment; filename=\"passwd\""),
            ("C:\\temp\\a b.txt", "attachment; filename=\"a b.txt\""),
            (
                "a\"; x=\"b\r\nset-cookie: c",
                "attachment; filename=\"a__ x=_bset-cookie_ c\"",
            ),
            (".bashrc", "attachment; filename=\"bashrc\""),
            ("", "attachment; filename=\"attachment\""),
            ("\u{202e}fdp.exe", "attachment; filename=\"fdp.exe\""),
            (
                "Übersicht 1.pdf",
                "attachment; filename=\"_bersicht 1.pdf\"; filename*=UTF-8''%C3%9Cbersicht%201.pdf",
            ),
        ] {
            assert_eq!(
                content_disposition(name).to_str().unwrap(),
                expected,
                "{name:?}"
            );
        }
    }

    #[test]
    fn long_names_keep_their_extension() {
        let name = safe_name(&format!("{}.tar.gz", "ä".repeat(1000)));
        assert_eq!(name.chars().count(), MAX_NAME);
        assert!(name.ends_with(".tar.gz"));
    }
}
