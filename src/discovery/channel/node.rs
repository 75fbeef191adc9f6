//! [`Node`]: one address, what is known about it, and its calls in flight; [`Link`]: one connection
//! to it.

use super::dial::Sender;
use super::roster::{Candidate, Place};
use super::state::{ConnectivityState, EndpointState};
use http::uri::Authority;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One address that we stay connected to.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Arc<str>,
    pub(super) authority: Authority,
    weight: AtomicU32,
    /// Rung when the weight changed.
    pub(super) reweighed: Notify,
    in_flight: AtomicUsize,
    calls: AtomicU64,
    course: Mutex<Course>,
}

/// One connection to a node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: Arc<Node>,
    pub(super) sender: Sender,
    place: Place,
    spent: AtomicBool,
    told: Notify,
}

/// One call in flight. It rides in the body of the response: streams outlive the future that
/// started them.
#[derive(Debug)]
pub(super) struct Flight(Arc<Node>);

#[derive(Debug)]
struct Course {
    condition: ConnectivityState,
    /// It was down, and was not ready since.
    failing: bool,
    why: Option<Arc<str>>,
    retired: bool,
}

/// How the count of failing nodes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Same,
    Fails,
    Recovers,
}

/// The weight of an instance that names none: as that of go-zero and of kratos.
pub(super) const DEFAULT_WEIGHT: u32 = 100;

// === impl Node ===

impl Node {
    pub(super) fn new(address: Arc<str>, authority: Authority, weight: u32) -> Self {
        Self {
            address,
            authority,
            weight: AtomicU32::new(weight),
            reweighed: Notify::new(),
            in_flight: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            course: Mutex::new(Course {
                condition: ConnectivityState::Idle,
                failing: false,
                why: None,
                retired: false,
            }),
        }
    }

    pub(super) fn reweigh(&self, weight: u32) {
        if self.weight.swap(weight, Relaxed) != weight {
            self.reweighed.notify_one();
        }
    }

    pub(super) fn start(self: &Arc<Self>) -> Flight {
        self.in_flight.fetch_add(1, Relaxed);
        self.calls.fetch_add(1, Relaxed);
        Flight(self.clone())
    }

    pub(super) fn turn(&self, condition: ConnectivityState) -> Turn {
        let mut course = self.course();
        if course.retired {
            return Turn::Same;
        }
        let was = course.failing;
        match &condition {
            ConnectivityState::TransientFailure { reason } => {
                course.failing = true;
                course.why = Some(reason.clone());
            }
            ConnectivityState::Ready => course.failing = false,
            ConnectivityState::Idle | ConnectivityState::Connecting => {}
        }
        course.condition = condition;
        Turn::from(was, course.failing)
    }

    /// Whatever comes after this counts no more.
    pub(super) fn retire(&self) -> Turn {
        let mut course = self.course();
        course.retired = true;
        Turn::from(std::mem::take(&mut course.failing), false)
    }

    /// Why it cannot be called, if it is because it fails.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        let course = self.course();
        course.why.clone().filter(|_| course.failing)
    }

    pub(super) fn state(&self) -> EndpointState {
        EndpointState {
            address: self.address.clone(),
            weight: self.weight.load(Relaxed),
            state: self.course().condition.clone(),
            in_flight: self.in_flight.load(Relaxed),
            calls: self.calls.load(Relaxed),
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Link ===

impl Link {
    pub(super) fn new(node: Arc<Node>, sender: Sender) -> Self {
        Self {
            node,
            sender,
            place: Place::default(),
            spent: AtomicBool::new(false),
            told: Notify::new(),
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.spent.load(Relaxed) && !self.sender.is_closed()
    }

    /// The other side takes no more calls on this connection.
    pub(super) fn spend(&self) {
        self.spent.store(true, Relaxed);
        self.told.notify_one();
    }

    pub(super) async fn spent(&self) {
        self.told.notified().await;
    }
}

impl Candidate for Link {
    fn weight(&self) -> u32 {
        self.node.weight.load(Relaxed)
    }

    fn load(&self) -> usize {
        self.node.in_flight.load(Relaxed)
    }

    fn place(&self) -> &Place {
        &self.place
    }
}

// === impl Flight ===

impl Flight {
    pub(super) fn address(&self) -> &str {
        &self.0.address
    }

    pub(super) fn shared_address(&self) -> &Arc<str> {
        &self.0.address
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

// === impl Turn ===

impl Turn {
    fn from(was_failing: bool, is_failing: bool) -> Self {
        match (was_failing, is_failing) {
            (false, true) => Self::Fails,
            (true, false) => Self::Recovers,
            _ => Self::Same,
        }
    }
}
