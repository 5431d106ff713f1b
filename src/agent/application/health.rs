//! `grpc.health.v1.Health/Check`, the one gRPC method that probes call.

use std::{io, net::SocketAddr};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::connection::dial;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Checks that the server reports the service as serving; the error says what it reports instead.
pub(super) async fn check(to: SocketAddr, service: &str) -> Result<(), String> {
    let stream = dial(to).await.map_err(|error| format!("{to}: {error}"))?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is used up")) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{to}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| format!("{to}: {error}"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| format!("{to}: {error}"))?;
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let answer = client.unary(request, PathAndQuery::from_static(CHECK), codec).await;
    match answer.map(|answer| answer.into_inner().status) {
        Ok(SERVING) => Ok(()),
        Ok(status) => Err(format!("service {service:?} has status {status}, not SERVING")),
        Err(error) => Err(format!("{:?}: {}", error.code(), error.message())),
    }
}
