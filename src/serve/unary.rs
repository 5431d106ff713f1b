//! Services whose calls are one request and one answer: each call has a time to end, and its request is paid from the budget.
//! Nothing else would bound them: a request that never ends is read into memory for as long as its connection lives.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::time::timeout;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use crate::budget::{Budget, Purpose, Standing};

/// A service of which no call takes longer, or more memory, than it may. Its callers have proven who they are.
#[derive(Clone, Debug)]
pub(super) struct Bounded<S> {
    pub(super) service: S,
    /// How long a call may take.
    pub(super) time: Duration,
    /// What one may hold, in bytes.
    pub(super) bytes: usize,
    pub(super) budget: Budget,
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let portion = match self.budget.take(Purpose::Requests, Standing::Proven, self.bytes) {
            Ok(portion) => portion,
            Err(error) => return Box::pin(async move { Ok(Status::resource_exhausted(error.to_string()).into_http()) }),
        };
        let answer = timeout(self.time, self.service.call(request));
        Box::pin(async move {
            let answered = answer.await;
            drop(portion);
            answered.unwrap_or_else(|_| Ok(Status::deadline_exceeded("the request did not end in time").into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn code(response: &Response<Body>) -> Option<Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_is_ended_and_gives_back_what_it_took() {
        // Of 1,600 bytes others keep 1,200.
        let budget = Budget::of(1600);
        let taken = budget.take(Purpose::Requests, Standing::Proven, 300).unwrap();
        let service = service_fn(|_| pending());
        let bounded = Bounded { service, time: Duration::from_millis(10), bytes: 100, budget: budget.clone() };
        let ask = || bounded.clone().oneshot(Request::new(Body::empty()));
        let waiting = tokio::spawn(ask());
        tokio::task::yield_now().await;
        assert_eq!(code(&ask().await.unwrap()), Some(Code::ResourceExhausted));
        assert_eq!(code(&waiting.await.unwrap().unwrap()), Some(Code::DeadlineExceeded));
        assert_eq!(code(&ask().await.unwrap()), Some(Code::DeadlineExceeded), "there is room again");
        drop(taken);
        assert!(budget.take(Purpose::Requests, Standing::Proven, 400).is_ok());
    }
}
