//! Calls of gRPC, which metrics tell from other requests of HTTP/2 on the same port.

use anyhow::{Result, ensure};
use harness::{
    http_client,
    mesh::{CLIENT, CONVERGE, Mesh, REVIEWS_V1},
    wait,
    workload::{HEADERS, Workload as Server},
};
use http::StatusCode;

use super::{
    PEER_HEADER,
    expected::{Expected, Service, Workload, of_grpc, of_http},
    scrape,
};
use crate::sniffing::{HOST, declare, get_http2};

const ANY: Service = ["any.shop.svc.cluster.local", "any", "shop"];

pub(super) async fn are_told_from_requests(mesh: &Mesh) -> Result<()> {
    let _server = Server::start_any("v1", mesh.network().socket(REVIEWS_V1.host, 9071)).await?;
    let target = mesh.network().socket(CLIENT.host, 9070);
    declare(mesh)?;
    wait::until("an answer on the sniffed port", CONVERGE, || async {
        let answer = http_client::get(target, HOST, "/").await?;
        ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await?;
    let before = scrape(mesh).await?;
    let (mut expected, client) = (Expected::default(), Workload::of(CLIENT));
    let (call, page) = (("content-type", "application/grpc"), ("content-type", "application/json"));
    for (header, request) in [(call, of_grpc("0")), (call, of_grpc("0")), (page, of_http("200", "-")), (call, of_grpc("0"))] {
        let answer = get_http2(target, &[header, (HEADERS, "all")]).await?;
        let seen = answer.headers().get(HEADERS).and_then(|names| names.to_str().ok()).unwrap_or_default();
        ensure!(seen.contains("content-type") && !seen.contains(PEER_HEADER), "{}: the application saw {seen}", answer.status());
        expected.request(&client, REVIEWS_V1, ANY, &request);
    }
    expected.are_counted(mesh, &before).await
}
