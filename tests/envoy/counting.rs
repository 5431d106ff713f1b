//! A small service of Envoy's protocol for rate limits: so many requests of each descriptor pass.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Result;
use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::RateLimitDescriptor,
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus},
        rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
    },
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// What was asked about, by domain and descriptor (`shop: user=alice`), and how often.
pub(crate) type Asked = Arc<Mutex<BTreeMap<String, u32>>>;

/// The service, while it runs. Dropping it cuts every connection.
pub(crate) struct Counting {
    runtime: Option<Runtime>,
}

impl Counting {
    /// Starts it, with what was counted before.
    pub(crate) fn start(at: SocketAddr, most: u32, asked: &Asked) -> Result<Self> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let service = RateLimitServiceServer::new(Counter { most, asked: Arc::clone(asked) });
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener)?);
            Server::builder().add_service(service).serve_with_incoming(incoming).await?;
            anyhow::Ok(())
        });
        Ok(Self { runtime: Some(runtime) })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // A runtime that is dropped within another one would wait for its tasks.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Counter {
    most: u32,
    asked: Asked,
}

#[tonic::async_trait]
impl RateLimitService for Counter {
    async fn should_rate_limit(&self, request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        let RateLimitRequest { domain, descriptors, .. } = request.into_inner();
        let mut asked = self.asked.lock();
        let statuses = descriptors.iter().map(|descriptor| {
            let count = asked.entry(format!("{domain}: {}", shown(descriptor))).or_default();
            *count += 1;
            DescriptorStatus { code: (if *count > self.most { Code::OverLimit } else { Code::Ok }).into(), ..DescriptorStatus::default() }
        });
        let statuses: Vec<DescriptorStatus> = statuses.collect();
        let is_over = statuses.iter().any(|status| status.code() == Code::OverLimit);
        let overall_code = (if is_over { Code::OverLimit } else { Code::Ok }).into();
        Ok(Response::new(RateLimitResponse { overall_code, statuses, ..RateLimitResponse::default() }))
    }
}

fn shown(descriptor: &RateLimitDescriptor) -> String {
    let entries: Vec<String> = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
    entries.join(",")
}
