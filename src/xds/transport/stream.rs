//! One client: what it asks for is taken in turn, and what it is told follows its view.
//!
//! Whatever a request or a view makes us do, the serving thread is given to others soon: much is done on other threads, and of
//! little only so much in a row.

use std::{
    marker::PhantomData,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3;
use prost::Message;
use tokio::{sync::mpsc, task::yield_now, time};
use tonic::Status;

use super::{DiscoveryService, STREAM, conversation::Conversation, nonces::Nonces};
use crate::{
    budget::{Exhausted, Portion, Purpose, Standing},
    mesh::model::Caller,
    peer_text::PeerText,
    sparse_log::{FEW, SparseLog},
    xds::{
        bounds::{Excess, measure},
        codec::{Form, Outgoing},
        debug,
        messages::{Messages, Unread, decoded_size},
        node::{Claim, Node, NodeError, Proven},
        session::{Protocol, Request, Response, Session},
    },
};

/// How many names are looked at on a serving thread before others have their turn.
const TURN: usize = 2048;
/// How many bytes of a request are read on a serving thread.
const READ: usize = 16 << 10;
/// The most bytes of metadata that a usual proxy says of itself: its labels and annotations.
const USUAL_NODE: usize = 8 << 10;
/// What even the smallest request counts for.
const LEAST: usize = 16;

/// A gRPC call that was let in: who makes it, what is said in it both ways, and what it may hold meanwhile.
pub(super) struct Call {
    pub(super) form: Form,
    pub(super) caller: Caller,
    pub(super) peer: Option<SocketAddr>,
    pub(super) requests: Messages,
    pub(super) responses: mpsc::Sender<Result<Outgoing, Status>>,
    /// What it holds, of the budget.
    pub(super) portion: Portion,
}

/// One client.
pub(super) struct Stream<P: Protocol> {
    service: DiscoveryService,
    call: Call,
    debug_nonces: Nonces,
    /// How many names a request may hold.
    names: usize,
    /// How many bytes of what it says of itself are kept, at most.
    node: usize,
    /// How many names were looked at since others had their turn.
    effort: usize,
    protocol: PhantomData<fn(P)>,
}

impl<P: Protocol> Stream<P> {
    /// Makes the stream of a call.
    pub(super) fn new(service: DiscoveryService, call: Call) -> Self {
        let (debug_nonces, names) = (Nonces::default(), service.options.bounds.first_names());
        Self { service, call, debug_nonces, names, node: 0, effort: 0, protocol: PhantomData }
    }

    /// Serves the client until it goes, breaks a rule, or the control plane shuts down.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let shutdown = self.service.options.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => Err(going_away()),
            result = self.converse() => result,
        }
    }

    async fn converse(&mut self) -> Result<(), Status> {
        let Some((proven, first)) = self.introduction().await? else { return Ok(()) };
        if self.call.caller != Caller::Anonymous {
            self.call.requests.allow(self.service.options.bounds.request);
        }
        let clock = Arc::clone(&self.service.options.clock);
        let entry = self.service.ledger.enter(&proven, self.call.peer, &clock);
        let views = Arc::clone(&self.service.views);
        views.introduce(&proven).await;
        let mut views = self.service.attaching.run(move || views.attach(&proven)).await?;
        let view = views.borrow_and_update().clone();
        let session = Session::<P>::new(self.service.options.rollout, self.service.options.bounds, view, &self.service.joined);
        let mut conversation = self.take(Box::new(Conversation::new(session, entry, clock)), first).await?;
        let responses = self.call.responses.clone();
        let mut more = true;
        let mut stale: Option<Instant> = None;
        let mut deadline = pin!(time::sleep_until(time::Instant::now()));
        let mut too_late = pin!(time::sleep_until(time::Instant::now()));
        loop {
            self.names = conversation.most_names();
            if let Some(at) = conversation.deadline() {
                deadline.as_mut().reset(at.into());
            }
            tokio::select! {
                biased;
                request = self.call.requests.next() => match self.received(request).await? {
                    Some(request) if self.is_debug(&request) => self.answer_debug(&request).await?,
                    Some(request) => {
                        conversation = self.take(conversation, request).await?;
                        more = true;
                    }
                    None => return Ok(()),
                },
                changed = views.changed(), if stale.is_none() => {
                    // The session turns to it when there is room: a client that takes nothing skips views.
                    changed.map_err(|_| going_away())?;
                    (stale, more) = (Some(Instant::now()), true);
                    too_late.as_mut().reset(time::Instant::now() + self.service.options.take_time);
                }
                () = &mut deadline, if !more && conversation.deadline().is_some() => more = true,
                permit = responses.reserve(), if more => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(since) = stale.take() {
                        self.service.ledger.metrics().queue_time.observe(since.elapsed().as_secs_f64());
                        let view = views.borrow_and_update().clone();
                        let effort = conversation.effort_to_turn(&view);
                        (conversation, ()) = self.work(conversation, effort, move |conversation| conversation.turn(view)).await?;
                        self.pay_for_change(&conversation)?;
                    }
                    let began = Instant::now();
                    let effort = conversation.effort_to_speak();
                    let response;
                    (conversation, response) = self.work(conversation, effort, Conversation::speak).await?;
                    match response {
                        Some(response) => {
                            self.observe_push_time(&response, began.elapsed());
                            self.pay_for_change(&conversation)?;
                            permit.send(Ok(Outgoing::Resources(response)));
                        }
                        None => more = false,
                    }
                }
                () = &mut too_late, if stale.is_some() => {
                    return Err(Status::deadline_exceeded("nothing was taken of what is there, and it has changed"));
                }
            }
        }
    }

    /// Waits for the first request that asks for configuration; returns it with who the proxy is. Reports of health and
    /// questions of command-line tools may come before it, and make nobody a proxy: a stream on which nothing else comes for a while
    /// ends.
    async fn introduction(&mut self) -> Result<Option<(Proven, P::Request)>, Status> {
        let (mut introduced, time) = (None, self.service.options.request_time);
        let mut until = time::Instant::now() + time;
        loop {
            let next = time::timeout_at(until, self.call.requests.next()).await;
            let request = next.map_err(|_| Status::deadline_exceeded("nothing was asked for"))?;
            let Some(mut request) = self.received(request).await? else { return Ok(None) };
            let node = request.take_node();
            if node.is_none() && request.type_url().ends_with("istio.v1.HealthInformation") {
                continue;
            }
            introduced = node.filter(|node| !node.id.is_empty()).or(introduced);
            let Some(node) = &introduced else { return Err(Status::invalid_argument("missing node information")) };
            if self.is_debug(&request) {
                let claim = Claim::parse(node);
                claim.agrees_with(&self.call.caller).then_some(()).ok_or_else(|| self.refusal(&node.id))?;
                self.answer_debug(&request).await?;
                until = time::Instant::now() + time;
                continue;
            }
            self.node = kept_of(node);
            let node = self.parsed(node).await?;
            let node = Arc::new(node);
            let proven = Proven::new(Arc::clone(&node), self.call.caller.clone()).ok_or_else(|| self.refusal(&node.proxy.id))?;
            return Ok(Some((proven, request)));
        }
    }

    /// Reads what a proxy says of itself: elsewhere when that is much.
    async fn parsed(&mut self, node: &v3::Node) -> Result<Node, Status> {
        let parsed = if node.encoded_len() > READ {
            let node = node.clone();
            self.service.computing.run(move || Node::parse(&node)).await?
        } else {
            Node::parse(node)
        };
        parsed.map_err(|error| match error {
            NodeError::Excess(excess) => self.excessive(excess),
            error => Status::invalid_argument(error.to_string()),
        })
    }

    fn refusal(&self, proxy: &str) -> Status {
        static STRANGERS: SparseLog = SparseLog::new(FEW);
        STRANGERS.write(|left_out| {
            let proxy = PeerText::new(proxy);
            tracing::warn!(%proxy, caller = ?self.call.caller, left_out, "the caller is not the proxy that it asks for");
        });
        Status::permission_denied("authorization failed")
    }

    fn excessive(&self, excess: Excess) -> Status {
        tracing::debug!(peer = ?self.call.peer, %excess, "a request holds too much: the stream ends");
        self.service.ledger.metrics().refused_requests.get_or_create(&[("reason", excess.reason())]).inc();
        excess.into()
    }

    async fn take(&mut self, conversation: Box<Conversation<P>>, request: P::Request) -> Result<Box<Conversation<P>>, Status> {
        let effort = conversation.effort_of(&request);
        let (conversation, taken) = self.work(conversation, effort, move |conversation| conversation.take(request)).await?;
        taken.map_err(|excess| self.excessive(excess))?;
        self.pay(&conversation).map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(conversation)
    }

    /// Takes from the budget what is held for the client, or gives back what no longer is.
    fn pay(&mut self, conversation: &Conversation<P>) -> Result<(), Exhausted> {
        let held = STREAM + self.node + conversation.held();
        if held == self.call.portion.bytes() { Ok(()) } else { self.call.portion.resize(held) }
    }

    /// Does so after a change of the mesh. A proxy that has proven who it is did not ask for that, and is served on.
    fn pay_for_change(&mut self, conversation: &Conversation<P>) -> Result<(), Status> {
        match self.pay(conversation) {
            Err(error) if self.call.caller == Caller::Anonymous => Err(Status::resource_exhausted(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Does something with the conversation: here when it is little, and on another thread when it is much.
    async fn work<T: Send + 'static>(
        &mut self,
        mut conversation: Box<Conversation<P>>,
        effort: usize,
        work: impl FnOnce(&mut Conversation<P>) -> T + Send + 'static,
    ) -> Result<(Box<Conversation<P>>, T), Status> {
        if effort > TURN {
            let both = move || {
                let done = work(&mut conversation);
                (conversation, done)
            };
            return self.service.computing.run(both).await;
        }
        self.pause(effort).await;
        let done = work(&mut conversation);
        Ok((conversation, done))
    }

    /// Lets others have their turn when much was done since they had.
    async fn pause(&mut self, effort: usize) {
        self.effort += effort.max(LEAST);
        if self.effort > TURN {
            self.effort = 0;
            yield_now().await;
        }
    }

    fn observe_push_time(&self, response: &Response, took: Duration) {
        if let Some(kind) = response.kind.filter(|kind| kind.is_in_views()) {
            let push_time = &self.service.ledger.metrics().push_time;
            push_time.get_or_create(&[("type", kind.as_str())]).observe(took.as_secs_f64());
        }
    }

    /// Reads a message, once it is paid for: elsewhere when it is long.
    async fn received(&mut self, message: Result<Option<Bytes>, Unread>) -> Result<Option<P::Request>, Status> {
        let Some(message) = message.map_err(|unread| self.unread(unread))? else { return Ok(None) };
        let largest = &self.service.ledger.metrics().largest_request;
        largest.set(largest.get().max(i64::try_from(message.len()).unwrap_or(i64::MAX)));
        let names = self.names;
        let weigh = move |message: Bytes| measure(P::MESSAGE, &message, names).map(|()| decoded_size(&message));
        let read = |message: Bytes| P::Request::decode(message).map_err(|_| Excess::form("request"));
        let is_long = message.len() > READ;
        let weighed = if is_long {
            let message = message.clone();
            self.service.computing.run(move || weigh(message)).await?
        } else {
            self.pause(message.len() / LEAST).await;
            weigh(message.clone())
        };
        let decoded = weighed.map_err(|excess| self.excessive(excess))?;
        self.call.requests.pay_for(&message, decoded).map_err(|unread| self.unread(unread))?;
        let request = if is_long { self.service.computing.run(move || read(message)).await? } else { read(message) };
        request.map(Some).map_err(|excess| self.excessive(excess))
    }

    fn unread(&self, unread: Unread) -> Status {
        match unread {
            Unread::Excess(excess) => self.excessive(excess),
            Unread::Broken(status) => status,
        }
    }

    fn is_debug(&self, request: &P::Request) -> bool {
        self.service.inspector.is_some() && debug::is_debug(request.type_url())
    }

    async fn answer_debug(&mut self, request: &P::Request) -> Result<(), Status> {
        // What answers an answer asks for nothing. istioctl's first request has a nonce too, of its own making.
        let asks = !self.debug_nonces.contains(request.nonce());
        let Some(inspector) = self.service.inspector.clone().filter(|_| asks) else { return Ok(()) };
        let (form, caller, nonce) = (self.call.form, self.call.caller.clone(), self.debug_nonces.next());
        let (type_url, names) = (request.type_url().to_owned(), request.names().to_vec());
        let answer = move || {
            let answer = debug::answer(inspector.as_ref(), &caller, &type_url, &names)?;
            Ok::<_, Status>(answer.encode(form, &type_url, nonce))
        };
        let message = self.service.computing.run(answer).await??;
        let standing = if self.call.caller == Caller::Anonymous { Standing::Unproven } else { Standing::Proven };
        let portion = self.service.options.budget.take(Purpose::Messages, standing, message.len());
        let portion = portion.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        // The client may have gone.
        let _ = self.call.responses.send(Ok(Outgoing::Message(message, portion))).await;
        Ok(())
    }
}

/// Returns how many bytes of a node are kept, at most. What usual ones say is part of what every stream is charged for.
fn kept_of(node: &v3::Node) -> usize {
    let metadata = node.metadata.as_ref().map_or(0, Message::encoded_len);
    if metadata > USUAL_NODE { 2 * metadata } else { 0 }
}

fn going_away() -> Status {
    Status::unavailable("the control plane is going away")
}
