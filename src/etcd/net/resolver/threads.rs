//! [`Threads`]: threads of our own for the system's resolver, which blocks.
//!
//! On the threads that a runtime has for blocking code, lookups that wait for DNS delay the application's own
//! blocking calls, and the end of its runtime. These threads are few, end when there is nothing to look up, and are not
//! waited for by anybody's runtime or process.

use crate::runtime::lock::Lock;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// See the [module](self).
pub(super) struct Threads {
    look_up: Box<LookUp>,
    state: Lock<State>,
}

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The result of a lookup, and whether it was slow.
pub(super) type Finished = (io::Result<Vec<SocketAddr>>, bool);

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Names whose last lookup was slow.
    waiting_slow: VecDeque<Job>,
    /// Threads.
    running: usize,
    /// How many of them look up a name whose last lookup was slow.
    running_slow: usize,
}

struct Job {
    host: String,
    was_slow: bool,
    answer: oneshot::Sender<Finished>,
}

/// The most lookups at once. Each ends by itself: glibc asks each DNS server twice and waits for 5 s each time.
const MOST: usize = 8;
/// The most lookups of names whose last lookup was slow. So names that DNS does not answer never keep the others waiting.
const MOST_SLOW: usize = 4;
/// DNS that works answers sooner.
const SLOW: Duration = Duration::from_secs(1);

// === impl Threads ===

impl Threads {
    pub(super) fn new(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            look_up: Box::new(look_up),
            state: Lock::default(),
        })
    }

    /// Looks a name up. The lookup begins when a thread is free, and continues when the receiver is dropped meanwhile.
    pub(super) fn look_up(
        self: &Arc<Self>,
        host: String,
        was_slow: bool,
    ) -> oneshot::Receiver<Finished> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let job = Job {
            host,
            was_slow,
            answer,
        };
        match was_slow {
            true => state.waiting_slow.push_back(job),
            false => state.waiting.push_back(job),
        }
        if state.running < MOST && state.may_begin(was_slow) {
            state.running += 1;
            drop(state);
            self.start_thread();
        }
        receiver
    }

    fn start_thread(self: &Arc<Self>) {
        let this = self.clone();
        let thread = std::thread::Builder::new().name("tonic-etcd-dns".to_owned());
        let Err(error) = thread.spawn(move || this.run()) else {
            return;
        };
        let mut state = self.state.lock();
        state.running -= 1;
        if state.running > 0 {
            return;
        }
        // No thread will look these up.
        let state = std::mem::take(&mut *state);
        for job in state.waiting.into_iter().chain(state.waiting_slow) {
            let error = io::Error::new(error.kind(), format!("no thread to be had: {error}"));
            let _ = job.answer.send((Err(error), false));
        }
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            let started = Instant::now();
            let found = catch_unwind(AssertUnwindSafe(|| (self.look_up)(&job.host)));
            let found = found.unwrap_or_else(|_| Err(io::Error::other("the lookup panicked")));
            let _ = job.answer.send((found, started.elapsed() >= SLOW));
            if job.was_slow {
                self.state.lock().running_slow -= 1;
            }
        }
    }

    /// The next name for a thread; `None` ends the thread.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let slow = |state: &mut State| match state.may_begin(true) {
            true => state.waiting_slow.pop_front(),
            false => None,
        };
        let job = state.waiting.pop_front().or_else(|| slow(&mut state));
        match &job {
            Some(job) => state.running_slow += usize::from(job.was_slow),
            None => state.running -= 1,
        }
        job
    }
}

// === impl State ===

impl State {
    fn may_begin(&self, was_slow: bool) -> bool {
        !was_slow || self.running_slow < MOST_SLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    /// A DNS that answers nothing about the name "dropped" until it is opened.
    #[derive(Default)]
    struct Dns {
        is_open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Dns {
        fn threads(self: &Arc<Self>) -> Arc<Threads> {
            let dns = self.clone();
            Threads::new(move |host| {
                dns.asked.fetch_add(1, Ordering::SeqCst);
                if host == "dropped" {
                    let is_open = dns.is_open.lock().unwrap();
                    drop(dns.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
                }
                Ok(vec![])
            })
        }

        fn open(&self) {
            *self.is_open.lock().unwrap() = true;
            self.opened.notify_all();
        }

        async fn has_asked(&self, count: usize) {
            while self.asked.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn have_ended(threads: &Threads) {
        while threads.state.lock().running > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn lookups_are_few_at_once_and_take_no_thread_of_the_runtime() {
        let dns = Arc::<Dns>::default();
        let threads = dns.threads();
        let begin = |_| threads.look_up("dropped".to_owned(), false);
        let lookups: Vec<_> = (0..400).map(begin).collect();
        dns.has_asked(MOST).await;
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert_eq!(dns.asked.load(Ordering::SeqCst), MOST);
        // A caller that gives up frees no thread: its lookup goes on.
        drop(lookups);
        let late = threads.look_up("late".to_owned(), false);
        assert_eq!(threads.state.lock().running, MOST);
        dns.open();
        assert!(late.await.unwrap().0.is_ok());
        have_ended(&threads).await;
    }

    #[tokio::test]
    async fn slow_names_leave_threads_for_the_others() {
        let dns = Arc::<Dns>::default();
        let threads = dns.threads();
        let begin = |_| threads.look_up("dropped".to_owned(), true);
        let slow: Vec<_> = (0..20).map(begin).collect();
        dns.has_asked(MOST_SLOW).await;
        let quick = (0..20).map(|_| threads.look_up("quick".to_owned(), false));
        for quick in quick.collect::<Vec<_>>() {
            assert!(quick.await.unwrap().0.is_ok());
        }
        assert_eq!(threads.state.lock().running_slow, MOST_SLOW);
        dns.open();
        for slow in slow {
            assert!(slow.await.unwrap().0.is_ok());
        }
        have_ended(&threads).await;
        assert_eq!(threads.state.lock().running_slow, 0);
    }

    #[tokio::test]
    async fn a_lookup_that_panics_frees_its_thread() {
        let threads = Threads::new(|_| panic!("a bug"));
        for _ in 0..MOST * 2 {
            let (found, _) = threads.look_up("etcd".to_owned(), true).await.unwrap();
            assert_eq!(found.unwrap_err().to_string(), "the lookup panicked");
        }
        have_ended(&threads).await;
    }
}
