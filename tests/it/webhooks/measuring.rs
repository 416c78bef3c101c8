//! What operators see.

use metrics_exporter_prometheus::PrometheusBuilder;

use super::{
    Outbox, quick,
    receiver::{Receiver, respond},
};

#[tokio::test]
async fn attempts_are_counted_by_result_and_timed() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let outbox = Outbox::new().await;
    let answer = async |n| respond(if n == 1 { 500 } else { 200 });
    let receiver = Receiver::start(answer).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let running = outbox.dispatch(quick(2));

    outbox.ended(&webhook).await;
    running.stopped().await;

    let shown = recorder.handle().render();
    for line in [
        "popbridge_webhook_attempts_total{result=\"retry\"} 1",
        "popbridge_webhook_attempts_total{result=\"delivered\"} 1",
        "popbridge_webhook_attempt_seconds_count 2",
        "popbridge_webhook_attempts_in_flight 0",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line} in {shown}");
    }
}
