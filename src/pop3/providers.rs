//! What users of well-known mail providers have to know before POP3 works.

/// Suffixes of a provider's POP3 host names, and what to tell its users.
const PROVIDERS: &[(&[&str], &str)] = &[
    (
        &["pop.gmail.com", "pop.googlemail.com"],
        "Gmail: switch POP on in its settings (Forwarding and POP/IMAP), and use OAuth or an app \
         password (which needs two-step verification). It lists some 250 messages at a time, and \
         only what was not fetched before; the user name `recent:NAME` lists the last 30 days \
         instead. What happens to fetched mail is a Gmail setting, not DELE.",
    ),
    (
        &[
            "outlook.office365.com",
            "pop-mail.outlook.com",
            "outlook.com",
            "office365.com",
            "hotmail.com",
            "live.com",
        ],
        "Microsoft takes no passwords for POP3, only OAuth (xoauth2). The mailbox must have POP \
         switched on, in Microsoft 365 by its administrator, and the scope is \
         https://outlook.office.com/POP.AccessAsUser.All.",
    ),
    (
        &["pop.mail.yahoo.com", "yahoo.com", "yahoo.co.jp"],
        "Yahoo wants an app password, made in the account's security settings; the account's own \
         password is refused.",
    ),
    (
        &["pop.aol.com", "aol.com"],
        "AOL wants an app password, made in the account's security settings.",
    ),
    (
        &["pop.gmx.net", "pop.gmx.com", "gmx.net", "gmx.com", "gmx.de"],
        "GMX: switch POP3 on in the e-mail settings (POP3 and IMAP); with two-factor login it \
         wants an application password.",
    ),
    (
        &["pop3.web.de", "web.de"],
        "WEB.DE: switch POP3 on in the e-mail settings (POP3 and IMAP); with two-factor login it \
         wants an application password.",
    ),
    (
        &["pop.qq.com", "pop.exmail.qq.com", "qq.com"],
        "QQ: switch POP3 on in the settings, and use the authorization code that it gives you as \
         the password. It says the same for a wrong password and for too many logins.",
    ),
    (
        &[
            "pop.163.com",
            "pop.126.com",
            "pop.yeah.net",
            "163.com",
            "126.com",
            "qiye.163.com",
        ],
        "NetEase (163, 126, yeah.net): switch POP3 on in the settings, and use the client \
         authorization code that it gives you as the password.",
    ),
    (
        &["mail.me.com", "icloud.com", "me.com"],
        "iCloud has no POP3 at all, only IMAP: forward the mail to a mailbox that has.",
    ),
    (
        &[
            "pop.zoho.com",
            "pop.zoho.eu",
            "poppro.zoho.com",
            "zoho.com",
            "zoho.eu",
        ],
        "Zoho: switch POP on in the mail settings; with two-factor login it wants an \
         application-specific password.",
    ),
];

/// What to tell the user of a provider, by the host of its POP3 server.
#[must_use]
pub fn hint(host: &str) -> Option<&'static str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_below = |suffix: &&str| {
        host.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    PROVIDERS
        .iter()
        .find(|(suffixes, _)| suffixes.iter().any(is_below))
        .map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_hosts_and_what_is_below_them() {
        for (host, word) in [
            ("pop.gmail.com", "recent:"),
            ("POP.GMAIL.COM.", "app password"),
            ("outlook.office365.com", "OAuth"),
            ("pop3.live.com", "OAuth"),
            ("imap.mail.me.com", "no POP3"),
            ("pop.qq.com", "authorization code"),
        ] {
            let hint = hint(host).unwrap_or_default();
            assert!(hint.contains(word), "{host}: {hint}");
        }
    }

    #[test]
    fn a_name_that_only_looks_similar_is_nobody_known() {
        for host in [
            "gmail.com.example.org",
            "notgmail.com",
            "hotpop.gmail.community",
            "",
        ] {
            assert_eq!(hint(host), None, "{host}");
        }
    }
}
