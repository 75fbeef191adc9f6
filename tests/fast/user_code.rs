//! The application's code that we call (closures, formats, probes, observers) may use the handles, and be slow.

use crate::setup::{LONG, SEC, Setup, announce, announced_by, greeter, status};
use crate::support::registered_within;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tonic_etcd::format::{Address, DecodeError, Format, KeyContext, Plain};
use tonic_etcd::observer::{Observer, StatusEvent};
use tonic_etcd::{
    Instance, Readiness, RegisterError, Registrar, RegistrarBuilder, Registration,
    RegistrationStatus,
};

/// Uses every method of the handles that returns at once.
fn use_handles(registrar: &Registrar, registration: &Registration) {
    let _shown = format!("{registrar:?} {registration:?} {:?}", registration.stats());
    let _status = (
        registration.status(),
        registration.watch(),
        registration.in_flight(),
    );
    drop(registration.pause("a test"));
    let other =
        registrar.register(Instance::new("other").with_id(format!("{:?}", thread::current())));
    let _ = other.map(|other| announce(&other));
}

/// Runs `call` on a thread of its own. A deadlock fails the test.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    thread::spawn(move || {
        let _runtime = runtime.enter();
        send.send(call())
    });
    let result = receive.recv_timeout(Duration::from_secs(20));
    result.expect("it did not return: a deadlock, or a panic")
}

#[tokio::test(start_paused = true)]
async fn the_closure_of_an_update_may_use_the_handles() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = announced_by(&registrar, greeter());
    registered_within(LONG, &registration).await;
    let (registrar, handle) = (registrar.clone(), registration.clone());
    let updated = in_time(move || {
        handle.update(|instance| {
            use_handles(&registrar, &handle);
            instance.with_value("new")
        })
    });
    updated.unwrap();
    setup.key_holds("new", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_inside_of_an_update_is_refused_with_the_reason() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let handle = registration.clone();
    let nested = in_time(move || {
        let mut nested = None;
        let outer = handle.update(|instance| {
            nested = Some(handle.update(|instance| instance.with_value("inner")));
            instance.with_value("outer")
        });
        outer.map(|()| nested.unwrap())
    });
    let error = nested.unwrap().unwrap_err();
    assert!(matches!(error, RegisterError::Nested), "{error:?}");
    setup.key_holds("outer", LONG).await;
    // The refusal ends with the outer update.
    registration.update(|it| it.with_value("later")).unwrap();
    setup.key_holds("later", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn no_update_of_several_threads_is_lost() {
    let setup = Setup::new();
    let registration = announced_by(&setup.builder().build().unwrap(), greeter().with_weight(0));
    let count = |instance: Instance| {
        let next = instance.weight().unwrap() + 1;
        instance.with_weight(next).with_value(next.to_string())
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| registration.update(count).unwrap()));
        }
    });
    setup.key_holds("400", LONG).await;
}

/// The plain format, that calls `hook` first in each method.
#[derive(Clone)]
struct Hooked {
    plain: Plain,
    hook: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Format for Hooked {
    fn name(&self) -> &str {
        "hooked"
    }
    fn key_prefix(&self, service: &str) -> String {
        self.plain.key_prefix(service)
    }
    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        (self.hook)();
        self.plain.check(instance)
    }
    fn key(&self, context: &KeyContext<'_>) -> String {
        (self.hook)();
        Format::key(&self.plain, context)
    }
    fn encode(&self, instance: &Instance, address: &Address) -> String {
        (self.hook)();
        self.plain.encode(instance, address)
    }
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        self.plain.decode(service, key, value)
    }
}

fn hooked(setup: &Setup, key: &str, hook: impl Fn() + Send + Sync + 'static) -> RegistrarBuilder {
    let plain = Plain::new().key_template(key);
    let hook = Arc::new(hook);
    let builder = Registrar::builder(setup.etcd()).shutdown_token(setup.shutdown.clone());
    builder.format(Hooked { plain, hook })
}

#[tokio::test(start_paused = true)]
async fn a_format_may_use_the_handles() {
    let setup = Setup::new();
    let handles: Arc<OnceLock<(Registrar, Registration)>> = Arc::default();
    let (of_hook, is_inside) = (handles.clone(), AtomicBool::new(false));
    let hook = move || {
        if let Some((registrar, registration)) = of_hook.get()
            && !is_inside.swap(true, Ordering::SeqCst)
        {
            use_handles(registrar, registration);
            let nested = registration.update(|it| it);
            assert!(matches!(nested, Ok(()) | Err(RegisterError::Nested)));
            is_inside.store(false, Ordering::SeqCst);
        }
    };
    let registrar = hooked(&setup, "{prefix}/{name}/{addr}", hook)
        .build()
        .unwrap();
    let registration = registrar.register(greeter()).unwrap();
    handles
        .set((registrar.clone(), registration.clone()))
        .unwrap();
    let handle = registration.clone();
    in_time(move || {
        announce(&handle);
        handle.update(|it| it.with_value("new")).unwrap();
        registrar
            .register(Instance::new("greeter").with_id("2"))
            .map(drop)
    })
    .unwrap();
    setup.key_holds("new", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_format_is_called_by_those_who_change_something_only() {
    for (local, is_by_caller) in [("10.0.0.1:9000", true), ("0.0.0.0:9000", false)] {
        let setup = Setup::new();
        let calls: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let noted = calls.clone();
        let note = move || noted.lock().unwrap().push(thread::current().id());
        let builder = hooked(&setup, "{prefix}/{name}/{lease}", note);
        let registration = builder.build().unwrap().register(greeter()).unwrap();
        calls.lock().unwrap().clear();
        registration.announce(local.parse().unwrap()).unwrap();
        calls.lock().unwrap().retain(|_| !is_by_caller);
        let first = registered_within(LONG, &registration).await;
        let own = thread::current().id();
        assert_eq!(calls.lock().unwrap().is_empty(), is_by_caller);
        // The worker is a task of this thread, and a renewal would wait for the format.
        assert!(calls.lock().unwrap().iter().all(|thread| *thread != own));
        calls.lock().unwrap().clear();
        setup.fake.revoke(first.lease);
        status(&registration, |it| {
            matches!(it, RegistrationStatus::Lost { .. })
        })
        .await;
        let second = registered_within(LONG, &registration).await;
        assert_eq!(
            &*second.keys[0],
            format!("/services/greeter/{}", second.lease)
        );
        assert!(first.lease != second.lease && calls.lock().unwrap().is_empty());
    }
}

/// Uses the handles in each callback.
#[derive(Debug, Default, Clone)]
struct Uses {
    handles: Arc<OnceLock<(Registrar, Registration)>>,
    calls: Arc<AtomicUsize>,
}

impl Observer for Uses {
    fn on_status(&self, transition: &StatusEvent<'_>) {
        if let Some((registrar, registration)) = self.handles.get()
            && transition.services == ["greeter"]
            && self.calls.fetch_add(1, Ordering::SeqCst) < 5
        {
            use_handles(registrar, registration);
            registration.update(|it| it.with_version("2")).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_and_a_probe_may_use_the_handles() {
    let setup = Setup::new();
    let uses = Uses::default();
    let handles = uses.handles.clone();
    let probe = Readiness::every(SEC, move || {
        if let Some((registrar, registration)) = handles.get() {
            use_handles(registrar, registration);
        }
        async { Ok::<_, String>(()) }
    });
    let builder = setup.builder().observer(uses.clone()).ready_when(probe);
    let registrar = builder.build().unwrap();
    let registration = announced_by(&registrar, greeter());
    uses.handles.set((registrar, registration.clone())).unwrap();
    registered_within(LONG, &registration).await;
    assert!(uses.calls.load(Ordering::SeqCst) > 0);
    setup.shutdown.cancel();
    registration.ended().await;
}
