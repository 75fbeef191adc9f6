//! A registration on a fake etcd, while the addresses of the machine change (tests only).

use super::draft::Draft;
use super::{Registrar, RegistrarBuilder};
use crate::address::{Address, Bound, LocalIp};
use crate::error::RegisterError;
use crate::etcd::local_addr::Interfaces;
use crate::format::{DecodeError, Format, Formats, KeyContext, Plain};
use crate::instance::Instance;
use crate::observe::status::RegistrationStatus;
use crate::registrar::registration::Registration;
use crate::runtime::lock::Lock;
use crate::testing::FakeEtcd;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tokio::time::sleep;

const SEC: Duration = Duration::from_secs(1);
const MOVED: &str = "the address of this machine changed, moving the key";
const GONE: &str = "this machine does not have the given address any more, keeping it";

/// A machine with interfaces that change, on a fake etcd.
struct Machine {
    etcd: FakeEtcd,
    interfaces: Arc<Lock<Vec<LocalIp>>>,
    log: Text,
    _log: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Machine {
    fn with(ips: &[&str]) -> Self {
        // As in `support`: with a second subscriber each thread has its own lines.
        Box::leak(Box::new(tracing::Dispatch::new(
            tracing::subscriber::NoSubscriber::new(),
        )));
        let log = Text::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let machine = Self {
            etcd: FakeEtcd::new(),
            interfaces: Arc::default(),
            log,
            _log: tracing::subscriber::set_default(subscriber.finish()),
        };
        machine.set(ips);
        machine
    }

    fn set(&self, ips: &[&str]) {
        let on = |interface: &str, ip: &str| LocalIp {
            interface: interface.to_owned(),
            ip: ip.parse().unwrap(),
        };
        let ips = ips.iter().map(|ip| on("eth0", ip));
        *self.interfaces.lock() = [on("lo", "127.0.0.1")].into_iter().chain(ips).collect();
    }

    fn builder(&self) -> RegistrarBuilder {
        let interfaces = Interfaces::Listed(self.interfaces.clone());
        let builder = Registrar::builder(self.etcd.etcd()).interfaces(interfaces);
        builder.key_template("{prefix}/{name}/{addr}")
    }

    async fn registered(&self, instance: Instance, bound: &str) -> Registration {
        let registrar = self.builder().build().unwrap();
        let registration = registrar.register(instance).unwrap();
        registration.announce(bound.parse().unwrap()).unwrap();
        registration.registered().await.unwrap();
        registration
    }

    /// The connection to etcd ends, and is made again.
    async fn reconnect(&self) {
        self.etcd.stop();
        self.etcd.start();
        sleep(SEC * 5).await;
    }

    fn addresses(&self) -> Vec<String> {
        let keys = self.etcd.keys().into_keys();
        let address = |key: String| key.rsplit('/').next().unwrap().to_owned();
        keys.map(address).collect()
    }

    fn warnings(&self, text: &str) -> usize {
        let log = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The old address stayed in etcd forever, and was written anew after a loss of data.
#[tokio::test(start_paused = true)]
async fn a_found_address_that_is_gone_moves_at_the_next_connection() {
    let machine = Machine::with(&["10.1.0.5"]);
    let registration = machine
        .registered(Instance::new("greeter"), "0.0.0.0:9000")
        .await;
    assert_eq!(machine.addresses(), ["10.1.0.5:9000"]);
    let mut statuses = registration.watch();
    machine.set(&["10.1.0.77"]);
    sleep(SEC * 60).await;
    assert_eq!(machine.addresses(), ["10.1.0.5:9000"], "no new connection");
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
    assert_eq!(machine.warnings(MOVED), 1);
    let registered = registration.status();
    let keys = &registered.registered().unwrap().keys;
    assert!(keys[0].ends_with("/10.1.0.77:9000"), "{keys:?}");
    // It was registered all the time.
    while let Ok(Some(status)) =
        tokio::time::timeout(Duration::from_millis(1), statuses.changed()).await
    {
        assert!(status.is_registered(), "{status:?}");
    }
    assert_eq!(machine.warnings("registration lost"), 0);
    // And nothing is said or written while nothing changes.
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
    assert_eq!(machine.warnings(MOVED), 1);
}

/// An outage had its own reason, and the status became `Lost` with that before the new key was written.
#[tokio::test(start_paused = true)]
async fn an_address_that_changes_during_an_outage_moves_without_lost() {
    let machine = Machine::with(&["10.1.0.5"]);
    let registration = machine
        .registered(Instance::new("greeter"), "0.0.0.0:9000")
        .await;
    let mut statuses = registration.watch();
    machine.etcd.stop();
    machine.set(&["10.1.0.77"]);
    sleep(SEC * 2).await;
    machine.etcd.start();
    let mut seen = vec![];
    while let Ok(Some(status)) = tokio::time::timeout(SEC * 10, statuses.changed()).await {
        assert!(status.is_registered(), "{status:?} after {seen:?}");
        seen.push(status);
    }
    assert!(
        matches!(seen.last(), Some(RegistrationStatus::Registered(_))),
        "{seen:?}"
    );
    assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
    // One for the move; the others are those of each outage.
    assert_eq!(machine.warnings(MOVED), 1);
    let of_outage = machine.warnings("etcd is out of reach");
    assert_eq!((machine.warnings("WARN"), of_outage), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_gone_is_not_written_after_a_loss_of_data() {
    for is_chosen in [false, true] {
        let machine = Machine::with(&["10.1.0.5"]);
        let builder = match is_chosen {
            true => machine.builder().advertise_interface("eth0"),
            false => machine.builder(),
        };
        let registrar = builder.build().unwrap();
        let registration = registrar.register(Instance::new("greeter")).unwrap();
        registration
            .announce("0.0.0.0:9000".parse().unwrap())
            .unwrap();
        registration.registered().await.unwrap();
        machine.set(&["10.1.0.77"]);
        machine.etcd.wipe();
        sleep(SEC * 5).await;
        assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
        assert_eq!(machine.warnings(MOVED), 1);
    }
}

/// While an interface is set up again, there is nothing better than the old address.
#[tokio::test(start_paused = true)]
async fn an_address_stays_until_there_is_another_one() {
    let machine = Machine::with(&["10.1.0.5"]);
    let _registration = machine
        .registered(Instance::new("greeter"), "0.0.0.0:9000")
        .await;
    machine.set(&[]);
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.5:9000"]);
    machine.set(&["10.1.0.6", "10.1.0.5"]);
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.5:9000"], "it is back");
    assert_eq!(machine.warnings(MOVED), 0);
    machine.set(&["10.1.0.6"]);
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.6:9000"]);
}

/// A server may start before the network does.
#[tokio::test(start_paused = true)]
async fn loopback_is_left_once_others_can_dial_another_address() {
    let machine = Machine::with(&[]);
    let _registration = machine
        .registered(Instance::new("greeter"), "0.0.0.0:9000")
        .await;
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["127.0.0.1:9000"]);
    machine.set(&["10.1.0.5"]);
    machine.reconnect().await;
    assert_eq!(machine.addresses(), ["10.1.0.5:9000"]);
    assert_eq!(machine.warnings(MOVED), 1);
}

#[tokio::test(start_paused = true)]
async fn a_given_address_that_is_gone_stays_and_is_reported_once() {
    let explicit = Instance::new("greeter").with_address("10.1.0.5:9000");
    for (instance, bound) in [
        (explicit, "0.0.0.0:9000"),
        (Instance::new("greeter"), "10.1.0.5:9000"),
    ] {
        let machine = Machine::with(&["10.1.0.5"]);
        let _registration = machine.registered(instance, bound).await;
        machine.set(&["10.1.0.77"]);
        for _ in 0..3 {
            machine.reconnect().await;
            assert_eq!(machine.addresses(), ["10.1.0.5:9000"]);
            assert_eq!(machine.warnings(GONE), 1);
        }
        assert_eq!(machine.warnings(MOVED), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_address_that_this_machine_never_had_is_not_reported() {
    let machine = Machine::with(&["172.17.0.2"]);
    for address in ["192.0.2.1:9000", "greeter.example:9000"] {
        let behind_nat = Instance::new("greeter").with_address(address);
        let _registration = machine.registered(behind_nat, "0.0.0.0:9000").await;
        machine.reconnect().await;
        machine.set(&["172.17.0.3"]);
        machine.reconnect().await;
        assert!(machine.addresses().contains(&address.to_owned()));
        assert_eq!(machine.warnings(GONE) + machine.warnings(MOVED), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_registration_comes_back_at_the_new_address() {
    let machine = Machine::with(&["10.1.0.5"]);
    let registration = machine
        .registered(Instance::new("greeter"), "0.0.0.0:9000")
        .await;
    let pause = registration.pause("maintenance").unwrap();
    machine.set(&["10.1.0.77"]);
    machine.reconnect().await;
    assert_eq!(machine.addresses(), [""; 0]);
    drop(pause);
    sleep(SEC).await;
    assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
}

/// Notes the threads that call it.
#[derive(Debug, Clone)]
struct Noted(Plain, Arc<Lock<Vec<ThreadId>>>);

impl Format for Noted {
    fn name(&self) -> &str {
        "noted"
    }

    fn key_prefix(&self, service: &str) -> String {
        self.0.key_prefix(service)
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        self.0.check(instance)
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.1.lock().push(thread::current().id());
        Format::key(&self.0, context)
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        self.1.lock().push(thread::current().id());
        self.0.encode(instance, address)
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        self.0.decode(service, key, value)
    }
}

/// The worker is a task of this thread, and a renewal would wait for the format.
#[tokio::test(start_paused = true)]
async fn the_key_of_a_new_address_is_not_made_in_the_worker() {
    let machine = Machine::with(&["10.1.0.5"]);
    let threads: Arc<Lock<Vec<ThreadId>>> = Arc::default();
    let noted = Noted(
        Plain::new().key_template("{prefix}/{name}/{addr}"),
        threads.clone(),
    );
    let interfaces = Interfaces::Listed(machine.interfaces.clone());
    let builder = Registrar::builder(machine.etcd.etcd()).interfaces(interfaces);
    let registrar = builder.format(noted).build().unwrap();
    let registration = registrar.register(Instance::new("greeter")).unwrap();
    registration
        .announce("0.0.0.0:9000".parse().unwrap())
        .unwrap();
    registration.registered().await.unwrap();
    threads.lock().clear();
    machine.reconnect().await;
    machine.set(&["10.1.0.77"]);
    machine.etcd.wipe();
    sleep(SEC * 5).await;
    assert_eq!(machine.addresses(), ["10.1.0.77:9000"]);
    let threads = threads.lock().clone();
    assert!(!threads.is_empty() && threads.iter().all(|it| *it != thread::current().id()));
}

/// An update meanwhile was not reported to the worker, which found no address to replace.
#[test]
fn an_address_that_is_back_before_another_is_found_is_reported() {
    let ip = |text: &str| [text.parse().unwrap()];
    let (ours, others) = (ip("10.1.0.5"), ip("10.1.0.77"));
    let formats = Formats::new(vec![Arc::new(Plain::new())]).unwrap();
    let bound = Bound::check("0.0.0.0:9000".parse().unwrap()).unwrap();
    let draft = Draft::new(vec![Instance::new("greeter")], 1, &formats).unwrap();
    let (found, moved) = draft.announced(Some(&bound)).resolved(&ours);
    assert!(moved.is_none() && found.checked(&ours).is_none());
    let gone = found.checked(&others).unwrap();
    assert!(gone.needs_local_ip() && gone.checked(&others).is_none());
    let back = gone.checked(&ours).unwrap();
    assert!(!back.needs_local_ip());
    // Announced again at the same address it keeps what was found, and at another one it does not.
    assert!(!back.announced(Some(&bound)).needs_local_ip());
    let other = Bound::check("0.0.0.0:9001".parse().unwrap()).unwrap();
    assert!(back.announced(Some(&other)).needs_local_ip());
}
