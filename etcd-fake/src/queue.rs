//! How much work the fake can do: a queue for each member, first come, first served, in virtual time.
//!
//! A request waits until the work that arrived before it is done. Work is done for callers that gave up, too, as etcd does. A
//! connection is accepted at once, as by the kernel, and its handshake is work in the queue. A killed process loses its queue.

use crate::record::Rpc;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What each member can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// How many requests it serves a second.
    pub rate: f64,
    /// How many requests a new connection is worth.
    pub connect: f64,
    /// When so many wait, it refuses a request: `etcdserver: too many requests`.
    pub longest_queue: f64,
}

/// The queues of all members.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    capacity: Option<Capacity>,
    members: BTreeMap<String, Queue>,
}

/// Work is counted in requests since the member was started.
#[derive(Debug, Clone, Copy)]
struct Queue {
    arrived: f64,
    done: f64,
    /// When it was done.
    at: Instant,
}

/// A place in a queue: all work that arrived until then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(f64);

/// There is no place.
#[derive(Debug)]
pub(crate) struct Full;

impl Queues {
    pub(crate) fn set(&mut self, capacity: Option<Capacity>, now: Instant) {
        self.go_on(now);
        self.capacity = capacity;
        if capacity.is_none() {
            self.members.clear();
        }
    }

    /// All that was waiting is lost with the process.
    pub(crate) fn lose(&mut self, member: Option<&str>) {
        self.members
            .retain(|name, _| member.is_some_and(|lost| lost != name));
    }

    /// A request arrives, or a connection.
    pub(crate) fn join(
        &mut self,
        rpc: Rpc,
        member: &str,
        now: Instant,
    ) -> Result<Option<Ticket>, Full> {
        self.go_on(now);
        let Some(capacity) = self.capacity else {
            return Ok(None);
        };
        let empty = Queue {
            arrived: 0.0,
            done: 0.0,
            at: now,
        };
        let queue = self.members.entry(member.to_owned()).or_insert(empty);
        let work = match rpc {
            Rpc::Connect => capacity.connect,
            _ if queue.arrived - queue.done >= capacity.longest_queue => return Err(Full),
            _ => 1.0,
        };
        queue.arrived += work;
        Ok(Some(Ticket(queue.arrived)))
    }

    /// When it is the turn of a ticket. `None` if the queue is gone.
    pub(crate) fn due(&self, member: &str, Ticket(place): Ticket) -> Option<Instant> {
        let (rate, queue) = (self.capacity?.rate, self.members.get(member)?);
        let seconds = (place - queue.done).max(0.0) / rate;
        Some(queue.at + Duration::from_secs_f64(seconds))
    }

    /// Does the work of the time until now.
    fn go_on(&mut self, now: Instant) {
        let rate = self.capacity.map_or(0.0, |capacity| capacity.rate);
        for queue in self.members.values_mut() {
            let done = queue.done + (now - queue.at).as_secs_f64() * rate;
            (queue.done, queue.at) = (done.min(queue.arrived), now);
        }
    }
}
