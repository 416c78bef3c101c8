//! A session cut at every single octet loses nothing and doubles nothing.

use futures_util::{StreamExt, stream};
use popbridge::chaos::{ChaosServer, Faults, Options};
use serde_json::json;

use super::store::{Case, Store};
use crate::support::{eventually, popbridge::Popbridge};

/// Mailboxes that are cut at the same time.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_octet_that_the_server_sends() {
    assert_no_cut_does_harm(&[], |octets, faults| faults.drop_at = Some(octets)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_octet_that_the_server_sends_one_reply_at_a_time() {
    let cut = |octets, faults: &mut Faults| faults.drop_at = Some(octets);
    assert_no_cut_does_harm(&["PIPELINING"], cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_octet_that_the_client_sends() {
    assert_no_cut_does_harm(&[], |octets, faults| faults.drop_in = Some(octets)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_octet_that_the_client_sends_one_command_at_a_time() {
    let cut = |octets, faults: &mut Faults| faults.drop_in = Some(octets);
    assert_no_cut_does_harm(&["PIPELINING"], cut).await;
}

/// Cuts first sessions, each at another octet, until a session is not cut any more.
async fn assert_no_cut_does_harm(hidden: &[&str], cut: impl Fn(u64, &mut Faults)) {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let mut faults = Faults {
        // Capabilities that make no difference only make replies longer.
        hide: [
            hidden,
            &[
                "TOP",
                "USER",
                "RESP-CODES",
                "AUTH-RESP-CODE",
                "IMPLEMENTATION",
            ],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect(),
        ..Faults::default()
    };
    let whole = case(&bridge, &store, faults.clone()).await;
    assert_eq!(whole.sync().await, "ok");
    let traffic = eventually("the session is over", async || {
        let traffic = whole.server.traffic();
        (traffic.0 > 0).then_some(traffic)
    });
    let (sent, received) = traffic.await;
    whole.assert_each_is_stored_once().await;
    assert_eq!(whole.left(), 0);

    cut(0, &mut faults);
    let longest = if faults.drop_at.is_some() {
        sent
    } else {
        received
    };
    faults.fault_sessions = Some(1);
    stream::iter(0..=longest)
        .for_each_concurrent(AT_ONCE, async |octets| {
            let mut faults = faults.clone();
            cut(octets, &mut faults);
            let case = case(&bridge, &store, faults).await;
            case.sync().await;
            case.assert_nothing_lost().await;

            case.recover().await;
            case.assert_each_is_stored_once().await;
            case.assert_nothing_lost().await;
            assert_eq!(case.left(), 0, "cut after {octets} octets");
        })
        .await;
    bridge.stop().await;
}

/// A mailbox over three messages that are deleted once they are stored.
async fn case<'a>(bridge: &'a Popbridge, store: &'a Store, faults: Faults) -> Case<'a> {
    let mut options = Options {
        faults,
        ..Options::default()
    };
    options.mail.messages = 0;
    let server = ChaosServer::start(options).await.unwrap();
    for message in [
        "Subject: 1\r\n\r\n.\r\n",
        "Subject: 2\r\n\r\n",
        "\r\n..\r\n",
    ] {
        server.maildrop().deliver(message);
    }
    Case::at(
        bridge,
        store,
        server,
        json!({ "delete_policy": "after_store" }),
    )
    .await
}
