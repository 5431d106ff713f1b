//! What the other topics stand on: the good client is answered on every port, beside others too, and the kernel tells what that
//! costs.

use std::net::{IpAddr, SocketAddr};

use harness::{http_client::get_text, mesh::START, wait};
use tokio::net::{TcpSocket, TcpStream};

use super::stage::{Stage, services};

#[tokio::test]
async fn the_good_client_is_answered_beside_a_silent_one() {
    let stage = Stage::start().await;
    let quiet = stage.good().measure().await.unwrap();
    let silent = connect_from(stage.attacker(2), stage.monitoring()).await;
    let beside = stage.good().measure().await.unwrap();
    beside.assert_within(2.0, &quiet, "one silent connection");
    let cost = stage.cost();
    assert!(cost.peak >= cost.resident && cost.resident > 1 << 20 && cost.files > 5 && !cost.cpu.is_zero(), "{cost:?}");
    assert!(stage.log().contains("serving"), "{}", stage.log());
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

/// Opens a TCP connection from an address of its own.
async fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}
