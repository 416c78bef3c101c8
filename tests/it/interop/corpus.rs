//! The maildrop: 300 messages with what has broken fetchers. The same octets every time.

pub(super) const MESSAGES: usize = 300;

const LONG_LINE: usize = 100_000;
const LARGE: usize = 1_200_000;

/// A message as a file: the octets that its sender meant, lines ended by LF.
pub(super) struct Message {
    /// What is special about it, for failures.
    pub(super) name: String,
    pub(super) octets: Vec<u8>,
}

pub(super) fn messages() -> Vec<Message> {
    (0..MESSAGES)
        .map(|n| {
            let (kind, octets) = message(n);
            Message {
                name: format!("{n}: {kind}"),
                octets,
            }
        })
        .collect()
}

fn message(n: usize) -> (&'static str, Vec<u8>) {
    match n {
        0 => return ("nothing at all", Vec::new()),
        1 => return ("an empty line", b"\n".to_vec()),
        2 => return ("over a megabyte", with_header(n, &large())),
        3 => {
            return (
                "over a megabyte in one line",
                with_header(n, &[b'x'; LARGE]),
            );
        }
        n if n % 100 == 4 => return ("a very long line", with_header(n, &long_line(n))),
        _ => {}
    }
    let body: &[u8] = match n % 15 {
        0 => return ("plain text", with_header(n, &text(n))),
        1 => return ("no header fields", [b"\n", text(n).as_slice()].concat()),
        2 => return ("header fields alone", header(n)),
        3 => b"",
        4 => b".\n..\n.leading dot\n...\n.\n",
        5 => b".",
        6 => b"the last line does not end",
        7 => b"8-bit \xff\xfe\x80 and \xe2\x82\xac\n",
        8 => b"NUL \0 within\n\0\n",
        9 => b"CR \r within\nand CR at the start\n\r of a line\n",
        10 => b"lines that end in CRLF\r\n.\r\n\r\nand not\n",
        11 => b"\n\n\n.\n\n\n",
        12 => {
            b"From here on\nit looks\n\nFrom sender@example.org Thu Nov 20 10:00:00 2025\n>From\n"
        }
        13 => {
            return (
                "an 8-bit header",
                [
                    b"X-Name: J\xfcrgen \xc3\xa9\n",
                    with_header(n, b"text\n").as_slice(),
                ]
                .concat(),
            );
        }
        _ => return ("an attachment", with_header(n, &attachment(n))),
    };
    let kind = [
        "no body",
        "leading dots",
        "a dot that ends it",
        "no line end at the end",
        "8-bit octets",
        "NUL octets",
        "bare CR",
        "CRLF in the file",
        "empty lines",
        "lines that begin with From",
    ][n % 15 - 3];
    (kind, with_header(n, body))
}

/// As every message has that came through a mail server: no two the same.
fn header(n: usize) -> Vec<u8> {
    format!(
        "Received: from mx.example.org by mail.example.org with SMTP id {n:04};\n\
        \tThu, 20 Nov 2025 10:00:00 +0000\n\
        Message-ID: <{n}@example.org>\n\
        Date: Thu, 20 Nov 2025 10:00:00 +0000\n\
        From: sender@example.org\n\
        Subject: message {n}\n"
    )
    .into_bytes()
}

fn with_header(n: usize, body: &[u8]) -> Vec<u8> {
    [header(n).as_slice(), b"\n", body].concat()
}

fn text(n: usize) -> Vec<u8> {
    format!("line of message {n}\n").repeat(n + 1).into_bytes()
}

fn long_line(n: usize) -> Vec<u8> {
    [
        vec![b'0' + (n / 100) as u8; LONG_LINE].as_slice(),
        b"\nend\n",
    ]
    .concat()
}

fn large() -> Vec<u8> {
    let line = b"a line of a long message, with some octets \xe2\x82\xac\n.\n..\n";
    line.repeat(LARGE / line.len())
}

fn attachment(n: usize) -> Vec<u8> {
    let lines = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v\n".repeat(n);
    format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext {n}\n\
        --b\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n\
        {lines}--b--\n"
    )
    .into_bytes()
}
