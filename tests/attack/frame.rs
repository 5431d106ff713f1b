//! What the other topics stand on: the good client is answered on every port, beside others too, and the kernel tells what that
//! costs.

use harness::{http_client::get_text, mesh::START, wait};

use super::stage::{Stage, connect_from, services};

#[tokio::test]
async fn the_good_client_is_answered_beside_a_silent_one() {
    let stage = Stage::start().await;
    let quiet = stage.good().measure().await.unwrap();
    let silent = connect_from(stage.attacker(2), stage.monitoring()).await.unwrap();
    let beside = stage.good().measure().await.unwrap();
    beside.assert_within(2.0, &quiet, "one silent connection");
    let cost = stage.cost();
    assert!(cost.peak >= cost.resident && cost.resident > 1 << 20 && !cost.cpu.is_zero(), "{cost:?}");
    assert!(stage.log().contains("serving"), "{}", stage.log());
    assert!(stage.open_files().await > 5);
    drop(silent);
}

#[tokio::test]
async fn a_change_of_the_mesh_arrives() {
    let stage = Stage::start().await;
    stage.write(&services(7));
    let known = || async {
        let services = get_text(stage.monitoring(), "/debug/registryz").await?;
        anyhow::ensure!(services.contains("svc-6"), "{services}");
        Ok(())
    };
    wait::until("the new services", START, known).await.unwrap();
}
