//! How messages come into the store: soon, session by session, and each for itself where one of a
//! batch is refused.

use serde_json::{Value, json};
use sqlx::{Executor, PgPool};

use super::{
    chaos,
    outcomes::faults,
    store::{Case, Store},
};
use crate::support::{eventually, popbridge::Popbridge};

#[tokio::test(flavor = "multi_thread")]
async fn first_messages_are_there_while_the_rest_still_comes() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let slow = chaos(faults(&["--stall-on", "RETR 3"])).await;
    let case = Case::at(&bridge, &store, slow, json!({})).await;
    eventually("the first messages are stored", async || {
        (case.stored().await.len() == 2).then_some(())
    })
    .await;
    assert_eq!(bridge.mailbox(&case.mailbox).await["state"], "syncing");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_session_count_new_messages_and_its_rest_comes_at_once() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let limits = json!({ "max_messages_per_session": 2 });
    let case = Case::at(&bridge, &store, chaos(faults(&[])).await, limits).await;
    assert_eq!(bridge.sync(&case.mailbox).await["error"], Value::Null);
    assert_eq!(case.stored().await.len(), 3, "in one pass");
    let maildrop = case.server.maildrop();
    for _ in 0..3 {
        maildrop.deliver("Subject: new\r\n\r\nhere\r\n");
    }
    assert_eq!(bridge.sync(&case.mailbox).await["stored"], 3);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_postgres_refuses_is_set_aside_and_the_others_are_stored() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let pool = PgPool::connect(&bridge.database.url).await.unwrap();
    pool.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'too poisonous' USING ERRCODE = '22P05'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON popbridge.messages FOR EACH ROW
            WHEN (NEW.summary ->> 'subject' = 'poison') EXECUTE FUNCTION refuse()",
    )
    .await
    .unwrap();
    let server = chaos(faults(&[])).await;
    server.maildrop().deliver("Subject: poison\r\n\r\nhere\r\n");
    server
        .maildrop()
        .deliver("Subject: antidote\r\n\r\nhere\r\n");
    let settings = json!({ "delete_policy": "after_store" });
    let case = Case::at(&bridge, &store, server, settings).await;

    let path = format!("/v1/mailboxes/{}/sync?wait=60", case.mailbox);
    let again = format!("{path}&retry_quarantined=true");
    for path in [&path, &again, &path] {
        let sync = bridge.post(path, Value::Null).await;
        assert_eq!(sync["error"], Value::Null);
        let states = case.states().await;
        assert_eq!(
            states,
            ["quarantined", "stored", "stored", "stored", "stored"]
        );
        assert_eq!(case.left(), 1, "it is not stored");
    }
    let messages = bridge.messages(&case.mailbox).await;
    let poison = messages
        .iter()
        .find(|m| m["state"] == "quarantined")
        .unwrap();
    let note = poison["parse_notes"][0].as_str().unwrap();
    assert!(note.contains("too poisonous"), "{note}");

    pool.execute("DROP TRIGGER refuse ON popbridge.messages")
        .await
        .unwrap();
    bridge.post(&again, Value::Null).await;
    case.assert_each_is_stored_once().await;
    case.assert_nothing_lost().await;
    bridge.stop().await;
}
