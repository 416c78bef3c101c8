//! What every server is put through.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use popbridge::pop3::{
    Entry, Error, PasswordMechanism, Retrieved, Session, Tls, Transcript, UniqueId,
};

use super::{
    corpus::MESSAGES,
    host::Host,
    server::{PASSWORD, Pop3Server},
};
use crate::support::eventually;

pub(super) mod program;

/// Runs the suite over a server: over each kind of line it offers, with each mechanism there.
macro_rules! interoperates {
    ($server:ident: $($line:ident [$($auth:ident),+]),+) => {
        $(mod $line {
            use super::$server;
            use crate::interop::suite;

            const LINE: popbridge::pop3::Tls = suite::line::$line;

            $(mod $auth {
                use super::{$server, LINE, suite};

                const AUTH: popbridge::pop3::PasswordMechanism = suite::auth::$auth;

                #[tokio::test(flavor = "multi_thread")]
                async fn every_message_is_retrieved_byte_identical() {
                    suite::every_message_is_retrieved_byte_identical::<$server>(LINE, AUTH).await;
                }
            })+

            #[tokio::test(flavor = "multi_thread")]
            async fn every_message_is_stored_once_and_deleted_when_asked() {
                suite::program::every_message_is_stored_once_and_deleted_when_asked::<$server>(LINE).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn interrupted_first_sync_goes_on_where_it_was() {
                suite::program::interrupted_first_sync_goes_on_where_it_was::<$server>(LINE).await;
            }
        })+

        /// All that is tested, as the names of tests have it.
        const TESTED: &[(popbridge::pop3::Tls, &[popbridge::pop3::PasswordMechanism])] = &[$((
            crate::interop::suite::line::$line,
            &[$(crate::interop::suite::auth::$auth),+],
        )),+];

        #[tokio::test(flavor = "multi_thread")]
        async fn offers_what_is_tested_and_no_more() {
            crate::interop::suite::offers_what_is_tested_and_no_more::<$server>(TESTED).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn wrong_password_is_refused() {
            crate::interop::suite::wrong_password_is_refused::<$server>(TESTED).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn tls_is_resumed_where_offered() {
            crate::interop::suite::tls_is_resumed_where_offered::<$server>(TESTED).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn only_quit_deletes() {
            crate::interop::suite::only_quit_deletes::<$server>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn locked_maildrop_is_in_use() {
            crate::interop::suite::locked_maildrop_is_in_use::<$server>().await;
        }
    };
}
pub(super) use interoperates;

#[expect(non_upper_case_globals, reason = "names of modules and so of tests")]
pub(super) mod line {
    use popbridge::pop3::Tls;

    pub(in crate::interop) const implicit: Tls = Tls::Implicit;
    pub(in crate::interop) const stls: Tls = Tls::Starttls;
    pub(in crate::interop) const plain_text: Tls = Tls::None;
}

#[expect(non_upper_case_globals, reason = "names of modules and so of tests")]
pub(super) mod auth {
    use popbridge::pop3::PasswordMechanism;

    pub(in crate::interop) const user_pass: PasswordMechanism = PasswordMechanism::UserPass;
    pub(in crate::interop) const plain: PasswordMechanism = PasswordMechanism::Plain;
    pub(in crate::interop) const apop: PasswordMechanism = PasswordMechanism::Apop;
}

/// The kinds of line that a server offers, and the mechanisms on each.
pub(super) type Tested = [(Tls, &'static [PasswordMechanism])];

pub(super) async fn every_message_is_retrieved_byte_identical<S: Pop3Server>(
    line: Tls,
    auth: PasswordMechanism,
) {
    let host = Host::<S>::start().await;
    let mut session = host.open(line, auth).await.unwrap();

    let listing = session.listing(None).await.unwrap();
    assert_eq!(listing.fault, None);
    assert_eq!(listing.entries.len(), MESSAGES);
    let wanted = listing.entries.iter();
    let mut retrieval = session.retrieve(wanted.map(|entry| (entry.number, entry.octets)));
    let mut retrieved = Vec::new();
    while let Some(next) = retrieval.next().await.unwrap() {
        assert!(matches!(next, Retrieved::Body { .. }), "{next:?}");
        let mut octets = Vec::new();
        while let Some(chunk) = retrieval.chunk().await.unwrap() {
            octets.extend_from_slice(chunk);
        }
        retrieved.push(octets);
    }
    session.quit().await.unwrap();
    host.assert_all(retrieved);
    assert_eq!(
        host.server.maildrop(),
        MESSAGES,
        "retrieving deletes nothing"
    );
}

/// On every line by every mechanism, all at once: some servers take seconds to refuse.
pub(super) async fn wrong_password_is_refused<S: Pop3Server>(tested: &Tested) {
    let host = Host::<S>::start().await;
    let ways = tested.iter().flat_map(|(line, mechanisms)| {
        let mechanisms = mechanisms.iter();
        mechanisms.map(|auth| (*line, *auth))
    });
    join_all(ways.map(async |(line, auth)| {
        let transcript = Transcript::default();
        let refused = host.open_with(line, auth, "wrong", &transcript).await;
        let code = refused.as_ref().map_err(Error::code).err();
        assert_eq!(code, Some("auth_failed"), "{line:?} {auth:?}: {refused:?}");
    }))
    .await;
    host.open_any()
        .await
        .expect("the right one opens it afterwards");
}

pub(super) async fn tls_is_resumed_where_offered<S: Pop3Server>(tested: &Tested) {
    let host = Host::<S>::start().await;
    let encrypted = tested.iter().filter(|(line, _)| *line != Tls::None);
    for (line, mechanisms) in encrypted {
        let resumes = async || {
            let transcript = Transcript::default();
            let session = host
                .open_with(*line, mechanisms[0], PASSWORD, &transcript)
                .await
                .unwrap();
            session.quit().await.unwrap();
            transcript.tls().unwrap().resumed
        };
        if S::RESUMES_TLS {
            // A busy server may take us to a process of its own that knows no session yet.
            eventually("a session is resumed", async || {
                resumes().await.then_some(())
            })
            .await;
        } else {
            assert!(!resumes().await && !resumes().await, "{line:?}");
        }
    }
}

pub(super) async fn only_quit_deletes<S: Pop3Server>() {
    let host = Host::<S>::start().await;
    let half = |session: Session| async {
        let mut session = session;
        let entries = session.listing(None).await.unwrap().entries;
        let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        let replies = session.delete(&numbers[MESSAGES / 2..]).await.unwrap();
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        (session, entries)
    };
    let (dropped, before) = half(host.open_any().await.unwrap()).await;
    drop(dropped);
    let session = eventually("a lost session leaves the maildrop", async || {
        host.open_any().await.ok()
    })
    .await;
    // In whatever order they are listed.
    let unique_ids = |entries: &[Entry]| -> BTreeSet<UniqueId> {
        let entries = entries.iter();
        entries.map(|entry| entry.unique_id.clone()).collect()
    };
    let (session, entries) = half(session).await;
    assert_eq!(
        unique_ids(&entries),
        unique_ids(&before),
        "it deleted nothing"
    );
    session.quit().await.unwrap();

    let mut session = host.open_any().await.unwrap();
    let after = session.listing(None).await.unwrap().entries;
    assert_eq!(unique_ids(&after), unique_ids(&entries[..MESSAGES / 2]));
    session.quit().await.unwrap();
    // Some remove files only once nobody has the maildrop open.
    eventually("the maildrop is half empty", async || {
        (host.server.maildrop() == MESSAGES / 2).then_some(())
    })
    .await;
}

pub(super) async fn locked_maildrop_is_in_use<S: Pop3Server>() {
    let host = Host::<S>::start().await;
    let mut first = host.open_any().await.unwrap();
    first.listing(None).await.unwrap();
    let second = host.open_any().await.map_err(|error| error.code());
    let refused = second.as_ref().err().copied();
    assert_eq!(refused, S::LOCKS.then_some("in_use"));
    if let Ok(second) = second {
        second.quit().await.unwrap();
    }
    first.quit().await.unwrap();
    host.open_any().await.expect("nobody is left who has it");
}

/// What a server announces, of what popbridge speaks, is what its file has tested.
pub(super) async fn offers_what_is_tested_and_no_more<S: Pop3Server>(tested: &Tested) {
    let host = Host::<S>::start().await;
    for (line, mechanisms) in tested {
        let (greeting, capabilities) = host.announced(*line).await;
        let capabilities = capabilities.unwrap_or_default();
        let sasl = capabilities.sasl.unwrap_or_default();
        let plain = sasl.iter().any(|name| name == "PLAIN");
        assert_eq!(
            plain,
            mechanisms.contains(&PasswordMechanism::Plain),
            "{line:?}: {sasl:?}"
        );
        // What was said before STLS may have been somebody else's.
        if *line != Tls::Starttls {
            let apop = greeting.contains('<') && greeting.contains('@');
            assert_eq!(
                apop,
                mechanisms.contains(&PasswordMechanism::Apop),
                "{line:?}: {greeting}"
            );
        }
        if *line == Tls::None {
            let stls = tested.iter().any(|(line, _)| *line == Tls::Starttls);
            assert_eq!(capabilities.stls, stls, "{:?}", capabilities.lines);
        }
    }
}
