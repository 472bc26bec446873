//! The way between a node and a service: where calls are delayed, lost, repeated, or done without anybody hearing of it.

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::faults::Fault;
use crate::node::{Node, Service, Trust};
use crate::world::World;

/// One node's way to one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    pub world: World,
    pub node: Node,
    pub service: Service,
    /// Whether the node may die of a call: gateways are no part of what is tested.
    pub may_crash: bool,
}

/// A call, for the trace.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub name: &'static str,
    pub key: &'a str,
    /// The client sends it again by itself when it hears nothing.
    pub is_retried: bool,
    /// Nothing but cuts and outages hits it, and it takes no time.
    pub is_exempt: bool,
}

impl<'a> Call<'a> {
    pub fn new(name: &'static str, key: &'a str) -> Self {
        Self { name, key, is_retried: false, is_exempt: false }
    }
}

/// How a call fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Failed,
    ReplyLost,
    DoneLater,
    SentTwice,
    CrashBefore,
    CrashAfter,
}

impl Link {
    fn draw(&self, call: &Call<'_>) -> Fate {
        let cut = self.node.cut(self.service);
        if cut.requests || self.world.is_away(self.service) {
            return Fate::Failed;
        }
        if cut.replies {
            return Fate::ReplyLost;
        }
        if call.is_exempt {
            return Fate::Done;
        }
        let fates = [
            (Fault::Failed, Fate::Failed),
            (Fault::ReplyLost, Fate::ReplyLost),
            (Fault::DoneLater, Fate::DoneLater),
            (Fault::SentTwice, Fate::SentTwice),
            (Fault::CrashBefore, Fate::CrashBefore),
            (Fault::CrashAfter, Fate::CrashAfter),
        ];
        let possible = fates.into_iter().filter(|(fault, _)| match fault {
            Fault::SentTwice => call.is_retried,
            Fault::CrashBefore | Fault::CrashAfter => self.may_crash,
            _ => true,
        });
        let struck = possible.into_iter().find(|(fault, _)| self.world.strikes(*fault));
        struck.map_or(Fate::Done, |(_, fate)| fate)
    }

    /// Some milliseconds, or seconds.
    async fn travel(&self, call: &Call<'_>) {
        // Hundreds of them, at each start of a worker.
        if call.is_exempt {
            return;
        }
        let slow = self.world.strikes(Fault::Slow);
        let delay = if slow { self.world.millis(200, 8_000) } else { self.world.millis(0, 5) };
        self.world.time().sleep(delay).await;
    }

    /// Until a client gives up: at once (connection refused) or after seconds.
    async fn give_up(&self) {
        let patience = if self.world.unit() < 0.5 { self.world.millis(0, 10) } else { self.world.millis(200, 3_000) };
        self.world.time().sleep(patience).await;
    }

    /// Makes a call as the way there and back allows. `run` is what the service does.
    pub async fn call<T, E>(
        &self,
        call: Call<'_>,
        run: impl Fn() -> BoxFuture<'static, Result<T, E>>,
        failed: fn(&str) -> E,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Debug + Send + 'static,
    {
        self.node.passes().await;
        let fate = self.draw(&call);
        self.travel(&call).await;
        let result = match fate {
            Fate::Done => self.acting(run()).await,
            Fate::SentTwice => {
                let first = self.acting(run()).await;
                self.note(&call, "first", &first);
                self.travel(&call).await;
                self.acting(run()).await
            }
            Fate::Failed => Err(failed("the request was lost")),
            Fate::ReplyLost => {
                let done = self.acting(run()).await;
                self.note(&call, "unheard", &done);
                Err(failed("the reply was lost"))
            }
            Fate::DoneLater => {
                self.done_later(&call, run());
                Err(failed("the request timed out"))
            }
            Fate::CrashBefore => self.crash(&call).await,
            Fate::CrashAfter => {
                let done = self.acting(run()).await;
                self.note(&call, "last", &done);
                self.crash(&call).await
            }
        };
        if matches!(fate, Fate::Failed | Fate::ReplyLost | Fate::DoneLater) {
            self.give_up().await;
        } else {
            self.travel(&call).await;
        }
        self.node.passes().await;
        self.note(&call, "", &result);
        result
    }

    /// The request is on its way for a while yet, also when its sender is gone by then.
    fn done_later<T: Send + 'static, E: Debug + Send + 'static>(
        &self,
        call: &Call<'_>,
        run: BoxFuture<'static, Result<T, E>>,
    ) {
        let (link, later) = (self.clone(), self.world.millis(500, 20_000));
        let (name, key) = (call.name, call.key.to_owned());
        tokio::spawn(async move {
            link.world.time().sleep(later).await;
            let done = link.acting(run).await;
            link.note(&Call::new(name, &key), "late", &done);
        });
    }

    async fn crash<T>(&self, call: &Call<'_>) -> T {
        self.world.trace(format_args!("{} dies in {} {}", self.node.name(), call.name, call.key));
        self.node.kill();
        std::future::pending().await
    }

    fn note<T, E: Debug>(&self, call: &Call<'_>, how: &str, result: &Result<T, E>) {
        let (node, service) = (self.node.name(), self.service.name());
        match result {
            Ok(_) if call.is_exempt => {}
            Ok(_) => self.world.trace(format_args!("{node} {service} {} {} {how} ok", call.name, call.key)),
            // It would name a folder that is named at random.
            Err(_) if call.key == "_probe" => {
                self.world.trace(format_args!("{node} {service} {} _probe no", call.name))
            }
            Err(error) => {
                self.world.trace(format_args!("{node} {service} {} {} {how} {error:?}", call.name, call.key));
            }
        }
    }

    /// Polls what a service does as an act of this node.
    pub async fn acting<T>(&self, mut run: BoxFuture<'static, T>) -> T {
        std::future::poll_fn(|context| self.world.act(&self.node, || run.as_mut().poll(context))).await
    }

    /// Waits while nothing comes back from the service.
    pub async fn hears(&self) {
        while self.node.cut(self.service).replies || self.world.is_away(self.service) {
            self.world.time().sleep(Duration::from_millis(500)).await;
        }
        self.node.passes().await;
    }

    /// Whoever acts for a session must be able to rely on the session's lease: an answer to a renewal that was sent less
    /// than two thirds of the TTL ago. A node that has stood still learns that in the moment in which it goes on.
    pub fn acts_on_lease(&self) {
        let Some(Trust { sent, ttl }) = self.node.trust() else { return };
        let age = self.world.time().now().saturating_sub(sent);
        if age > ttl * 2 / 3 && !self.node.is_stopped() && !self.node.has_just_resumed() && !self.node.is_dead() {
            let (node, service) = (self.node.name(), self.service.name());
            self.world.violated(format!("{node} acts on {service} by a lease that was last renewed {age:?} ago"));
        }
    }
}
