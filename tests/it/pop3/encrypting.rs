use popbridge::pop3::{CertificateFault, Deadlines, Error, KeyPin, Server, Tls, Transcript};

use super::{SOON, open, open_within, refusal, retrieve_all};
use crate::support::pop3_peer::{Answer, Certificate, Peer, Running, connector, credentials};

/// The same peer, asked for in another way.
fn with_server(mut peer: Running, change: impl FnOnce(&mut Server)) -> Running {
    change(&mut peer.server);
    peer
}

#[tokio::test]
async fn both_kinds_of_tls_work_with_a_private_ca() {
    for tls in [Tls::Implicit, Tls::Starttls] {
        let peer = Peer::new(tls).start().await;
        let mut session = open(&peer).await.unwrap();
        assert_eq!(retrieve_all(&mut session).await.unwrap().len(), 2);
        session.quit().await.unwrap();
        assert_eq!(peer.count("QUIT"), 1);
    }
}

#[tokio::test]
async fn an_ip_address_as_host_is_checked_against_the_certificate() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let peer = with_server(peer, |server| server.host = "127.0.0.1".into());
    open(&peer).await.unwrap();
}

#[tokio::test]
async fn capabilities_are_asked_for_again_inside_tls() {
    let peer = Peer::new(Tls::Starttls).start().await;
    open(&peer).await.unwrap();
    let commands = peer.commands();
    let verbs: Vec<_> = commands
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(verbs, ["CAPA", "STLS", "CAPA", "AUTH", "CAPA"]);
}

#[tokio::test]
async fn bad_certificates_have_codes_of_their_own() {
    let foreign = Certificate::issued(&["elsewhere"]).ca_pem;
    let same_name = Certificate::issued(&["localhost", "127.0.0.1"]).ca_pem;
    for tls in [Tls::Implicit, Tls::Starttls] {
        let expired = Peer::new(tls)
            .certificate(Certificate::expired())
            .start()
            .await;
        let other_name = Certificate::issued(&["mail.example.org"]);
        let other_name = Peer::new(tls).certificate(other_name).start().await;
        let foreign_ca = with_server(Peer::new(tls).start().await, |server| {
            server.ca_pem = Some(foreign.clone());
        });
        let ca_of_same_name = with_server(Peer::new(tls).start().await, |server| {
            server.ca_pem = Some(same_name.clone());
        });
        let public_cas = with_server(Peer::new(tls).start().await, |server| server.ca_pem = None);
        for (peer, expected) in [
            (expired, "tls_certificate_expired"),
            (other_name, "tls_certificate_name_mismatch"),
            (foreign_ca, "tls_certificate_untrusted"),
            (ca_of_same_name, "tls_certificate_untrusted"),
            (public_cas, "tls_certificate_untrusted"),
        ] {
            let (code, detail) = refusal(&peer).await;
            assert_eq!(code, expected, "{tls:?}: {detail}");
            assert!(!peer.commands().iter().any(|line| line.contains("hunter2")));
        }
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_when_it_is_given() {
    for as_ca in [false, true] {
        let certificate = Certificate::self_signed(as_ca, false);
        let peer = Peer::new(Tls::Implicit)
            .certificate(certificate)
            .start()
            .await;
        open(&peer).await.unwrap();

        let peer = with_server(peer, |server| server.host = "127.0.0.1".into());
        assert_eq!(refusal(&peer).await.0, "tls_certificate_name_mismatch");

        let peer = with_server(peer, |server| server.ca_pem = None);
        assert_eq!(refusal(&peer).await.0, "tls_certificate_untrusted");

        let expired = Certificate::self_signed(as_ca, true);
        let peer = Peer::new(Tls::Implicit).certificate(expired).start().await;
        assert_eq!(refusal(&peer).await.0, "tls_certificate_expired");
    }
}

#[tokio::test]
async fn another_self_signed_certificate_is_not_trusted() {
    let certificate = Certificate::self_signed(true, false);
    let peer = Peer::new(Tls::Implicit)
        .certificate(certificate)
        .start()
        .await;
    let other = Certificate::self_signed(true, false).ca_pem;
    let peer = with_server(peer, |server| server.ca_pem = Some(other));
    assert_eq!(refusal(&peer).await.0, "tls_certificate_untrusted");
}

#[tokio::test]
async fn a_useless_ca_is_refused_before_anything_is_sent() {
    for pem in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ] {
        let peer = Peer::new(Tls::Implicit).start().await;
        let peer = with_server(peer, |server| server.ca_pem = Some(pem.into()));
        let (code, detail) = refusal(&peer).await;
        assert_eq!(code, "tls_ca_invalid");
        assert!(detail.contains("tls_ca_pem"), "{detail}");
    }
}

#[tokio::test]
async fn a_pinned_key_is_trusted_for_its_own_sake() {
    for certificate in [
        Certificate::self_signed(true, true),
        Certificate::issued(&["elsewhere"]),
    ] {
        let peer = Peer::new(Tls::Implicit)
            .certificate(certificate)
            .start()
            .await;
        let pin = pin_of(&peer).await;
        let peer = with_server(peer, |server| {
            server.ca_pem = None;
            server.pin = Some(pin);
        });
        open(&peer).await.unwrap();
    }
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused_whoever_vouches_for_it() {
    let other: KeyPin = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        .parse()
        .unwrap();
    for tls in [Tls::Implicit, Tls::Starttls] {
        let peer = Peer::new(tls).start().await;
        let peer = with_server(peer, |server| server.pin = Some(other));
        let (code, detail) = refusal(&peer).await;
        assert_eq!(code, "tls_pin_mismatch");
        assert!(detail.contains("tls_pin_sha256"), "{detail}");
        assert!(!peer.commands().iter().any(|line| line.contains("hunter2")));
    }
}

#[tokio::test]
async fn a_pin_beside_a_ca_takes_nothing_away_from_the_ca() {
    let certificate = Certificate::issued(&["elsewhere"]);
    let peer = Peer::new(Tls::Implicit)
        .certificate(certificate)
        .start()
        .await;
    let pin = pin_of(&peer).await;
    let peer = with_server(peer, |server| server.pin = Some(pin));
    assert_eq!(refusal(&peer).await.0, "tls_certificate_name_mismatch");
}

/// The pin of the peer's key, as the refusal of a wrong one tells it.
async fn pin_of(peer: &Running) -> KeyPin {
    let mut server = peer.server.clone();
    server.pin = Some(
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
            .parse()
            .unwrap(),
    );
    let refused = connector(Deadlines::default())
        .open(&server, &credentials(), &Transcript::default())
        .await;
    match refused {
        Err(Error::Certificate {
            fault: CertificateFault::KeyNotPinned { key: Some(key) },
            ..
        }) => key,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_later_session_resumes_the_tls_of_an_earlier_one() {
    let connector = connector(Deadlines::default());
    for tls in [Tls::Implicit, Tls::Starttls] {
        let peer = Peer::new(tls).start().await;
        let mut resumed = Vec::new();
        for _ in 0..3 {
            let transcript = Transcript::default();
            let opened = connector
                .open(&peer.server, &credentials(), &transcript)
                .await;
            opened.unwrap().quit().await.unwrap();
            resumed.push(transcript.tls().unwrap().resumed);
        }
        assert_eq!(resumed, [false, true, true], "{tls:?}");
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_by_whom_its_certificate_would_not_convince() {
    let connector = connector(Deadlines::default());
    let peer = Peer::new(Tls::Implicit).start().await;
    let open = |server: Server| {
        let connector = connector.clone();
        async move {
            let opened = connector
                .open(&server, &credentials(), &Transcript::default())
                .await;
            opened.map(|_| ()).map_err(|error| error.code())
        }
    };
    open(peer.server.clone()).await.unwrap();
    let mut suspicious = peer.server.clone();
    suspicious.ca_pem = Some(Certificate::issued(&["localhost"]).ca_pem);
    assert_eq!(open(suspicious).await, Err("tls_certificate_untrusted"));
}

#[tokio::test]
async fn what_tls_agreed_on_can_be_told() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let transcript = Transcript::default();
    let opened = connector(Deadlines::default())
        .open(&peer.server, &credentials(), &transcript)
        .await;
    opened.unwrap();
    let facts = transcript.tls().unwrap();
    assert_eq!(facts.version, "TLSv1.3");
    let certificate = &facts.certificates[0];
    assert_eq!(certificate.names, ["localhost", "127.0.0.1"]);
    assert_eq!(certificate.key_pin, Some(pin_of(&peer).await));
    assert!(certificate.not_before < certificate.not_after);
}

#[tokio::test]
async fn plain_text_on_the_implicit_port_is_said_to_be_that() {
    let peer = Peer::new(Tls::None).start().await;
    let peer = with_server(peer, |server| server.tls = Tls::Implicit);
    let (code, detail) = refusal(&peer).await;
    assert_eq!(code, "tls_failed");
    assert!(detail.contains("does not speak TLS"), "{detail}");
}

#[tokio::test]
async fn a_handshake_that_stalls_is_a_timeout() {
    let peer = Peer::new(Tls::Starttls)
        .answer("STLS", Answer::Hang(b"+OK\r\n".into()))
        .start()
        .await;
    let error = open_within(
        &peer,
        Deadlines {
            tls: SOON,
            ..Deadlines::default()
        },
    )
    .await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_handshake_that_is_cut_is_connection_closed() {
    let peer = Peer::new(Tls::Starttls)
        .answer("STLS", Answer::Close(b"+OK\r\n".into()))
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "connection_closed");
}

#[tokio::test]
async fn starttls_never_falls_back_to_plain_text() {
    let silent = Peer::new(Tls::Starttls)
        .capabilities(&["USER", "UIDL"])
        .start()
        .await;
    let refusing = Peer::new(Tls::Starttls)
        .sends("STLS", "-ERR no TLS here\r\n")
        .start()
        .await;
    let unknowing = Peer::new(Tls::Starttls)
        .sends("CAPA", "-ERR what?\r\n")
        .sends("STLS", "-ERR what?\r\n")
        .start()
        .await;
    for peer in [silent, refusing, unknowing] {
        let (code, detail) = refusal(&peer).await;
        assert_eq!(code, "starttls_unsupported");
        assert!(detail.contains("995"), "{detail}");
        assert!(!peer.commands().iter().any(|line| line.contains("user")));
    }
}

#[tokio::test]
async fn plain_text_behind_the_reply_to_stls_is_refused() {
    let peer = Peer::new(Tls::Starttls)
        .sends("STLS", "+OK\r\n+OK injected\r\n")
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "starttls_injection");
    assert!(!peer.commands().iter().any(|line| line.contains("hunter2")));
}
