//! The introspection service: its messages, limits and remote control.

use crate::setup::{
    KEY, LONG, SEC, Setup, all_registered, announce, announced_by, greeter, pipe, pipe_with, status,
};
use crate::support::fake::{Reply, Rpc};
use crate::support::registered_within;
use std::collections::BTreeSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Streaming};
use tonic_etcd::introspection::pb::introspection_client::IntrospectionClient;
use tonic_etcd::introspection::pb::{
    EtcdEndpoint, EtcdEndpointState, ListRequest, ListResponse, PauseRequest, Process,
    RegistrationState, ResumeRequest, ShutdownPhase, WatchRequest, WatchResponse,
};
use tonic_etcd::introspection::{FILE_DESCRIPTOR_SET, Introspection, IntrospectionBuilder};
use tonic_etcd::{Etcd, Instance, Registrar, Registration, RegistrationStatus};

pub type Client = IntrospectionClient<Channel>;

/// A client through a pipe inside the runtime, which takes so many bytes of a stream unread.
async fn client_with(introspection: IntrospectionBuilder, window: u32) -> Client {
    let endpoint = Endpoint::from_static("http://server").initial_stream_window_size(window);
    let (incoming, channel) = pipe_with(endpoint);
    let server = Server::builder().add_service(introspection.build());
    tokio::spawn(server.serve_with_incoming(incoming));
    Client::new(channel.await)
}

pub async fn client(introspection: IntrospectionBuilder) -> Client {
    client_with(introspection, 1 << 20).await
}

/// A registrar with one registration that is in etcd.
async fn registered(setup: &Setup) -> (Registrar, Registration) {
    let registrar = setup.builder().build().unwrap();
    let registration = announced_by(&registrar, greeter());
    registered_within(LONG, &registration).await;
    (registrar, registration)
}

async fn watch(client: &mut Client) -> Streaming<WatchResponse> {
    let watch = client.watch(WatchRequest::default());
    watch.await.unwrap().into_inner()
}

/// The state in the next message that has a registration.
async fn next_state(stream: &mut Streaming<WatchResponse>) -> RegistrationState {
    let next = async {
        loop {
            let message = stream.message().await.unwrap().expect("no end");
            if let [registration] = &message.registrations[..] {
                return registration.state();
            }
        }
    };
    timeout(LONG, next).await.unwrap()
}

pub async fn list(client: &mut Client) -> ListResponse {
    let list = client.list(ListRequest::default()).await.unwrap();
    list.into_inner()
}

fn page(page_size: i32, page_token: &str) -> ListRequest {
    ListRequest {
        page_size,
        page_token: page_token.to_owned(),
        service: String::new(),
    }
}

fn pause(service: &str, name: &str, reason: &str) -> PauseRequest {
    PauseRequest {
        service: service.to_owned(),
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

async fn resume(client: &mut Client, name: &str) -> Result<u32, Code> {
    let name = name.to_owned();
    let resumed = client.resume(ResumeRequest { name }).await;
    resumed.map_or_else(|e| Err(e.code()), |it| Ok(it.into_inner().registrations))
}

#[tokio::test(start_paused = true)]
async fn list_and_watch_show_what_becomes_of_a_registration() {
    use RegistrationState::{Lost, Paused, Registered, Registering, Suspect};
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = registrar.register(greeter().with_id("7")).unwrap();
    let mut client = client(Introspection::builder().registrar(&registrar)).await;
    let mut stream = watch(&mut client).await;
    assert_eq!(next_state(&mut stream).await, Registering);
    announce(&registration);
    assert_eq!(next_state(&mut stream).await, Registered);

    let shown = list(&mut client).await;
    let [told] = &shown.registrations[..] else {
        panic!("{shown:?}");
    };
    let held = setup.fake.keys()[KEY].clone();
    assert_eq!(told.keys, [KEY]);
    assert_eq!(told.lease, held.lease);
    assert_eq!(told.formats, ["plain"]);
    assert!(told.revision > 0 && told.state_age_ms < 60_000, "{told:?}");
    let instance = &told.instances[0];
    let names = (&*instance.service, &*instance.id, &*instance.address);
    assert_eq!(names, ("greeter", "7", "10.0.0.1:9000"));
    let process = shown.process.unwrap();
    let registrar = &process.registrars[0];
    assert_eq!(registrar.endpoints[0].url, "http://etcd:2379");
    assert_eq!((registrar.registrations, registrar.ttl_ms), (1, 5000));
    let expires = registrar.lease_expires_in_ms.unwrap();
    assert!((1..=5000).contains(&expires), "{expires}");
    assert_eq!(registrar.lease, held.lease);
    assert!(registrar.endpoints[0].is_connected, "{registrar:?}");
    assert!(registrar.last_error.is_empty(), "{registrar:?}");
    let due = registrar.renewal_due_in_ms;
    assert!(due <= Some(5000 / 3 + 200), "{due:?}");

    let pause = registration.pause("warming cache").unwrap();
    assert_eq!(next_state(&mut stream).await, Paused);
    let told = &list(&mut client).await.registrations[0];
    assert_eq!(told.pauses, ["warming cache"]);
    assert_eq!(told.lease, 0);
    drop(pause);
    let mut last = next_state(&mut stream).await;
    while last != Registered {
        assert_eq!(last, Registering);
        last = next_state(&mut stream).await;
    }

    // Two renewals, which cause no message.
    sleep(SEC * 4).await;
    setup.fake.down();
    assert_eq!(next_state(&mut stream).await, Suspect);
    assert_eq!(next_state(&mut stream).await, Lost);
    let shown = list(&mut client).await;
    let told = &shown.registrations[0];
    assert_eq!(told.state(), Lost);
    assert!(!told.reason.is_empty());
    let registrar = &shown.process.unwrap().registrars[0];
    assert!(!registrar.endpoints[0].is_connected, "{registrar:?}");
    assert!(!registrar.last_error.is_empty(), "{registrar:?}");
    let age = registrar.renewal_acknowledged_age_ms;
    assert!(age > Some(4000), "{age:?}");
    assert_eq!(registrar.lease_expires_in_ms, None, "it may have ended");
    setup.fake.up();
    while next_state(&mut stream).await != Registered {}
}

#[tokio::test]
async fn ten_thousand_registrations_are_listed_in_pages() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let register = |n| registrar.register(Instance::new(format!("service-{n}")));
    let all: Vec<_> = (0..10_000).map(|n| register(n).unwrap()).collect();
    // The first page is of those that are registered; `make measure` has all of them so.
    for registration in &all[..1000] {
        announce(registration);
    }
    all_registered(&all[..1000]).await;
    let mut client = client(Introspection::builder().registrar(&registrar)).await;
    let mut services = BTreeSet::new();
    let mut token = String::new();
    let mut longest = std::time::Duration::ZERO;
    let mut pages = 0;
    loop {
        let began = Instant::now();
        let answer = client.list(page(i32::MAX, &token)).await.unwrap();
        longest = longest.max(began.elapsed());
        let answer = answer.into_inner();
        pages += 1;
        assert!(answer.registrations.len() <= 1000);
        assert_eq!(answer.process.is_some(), token.is_empty());
        for registration in answer.registrations {
            let is_registered = registration.state() == RegistrationState::Registered;
            assert_eq!(is_registered, pages == 1, "{registration:?}");
            assert_eq!(registration.keys.len(), usize::from(is_registered));
            assert!(services.insert(registration.instances[0].service.clone()));
        }
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((services.len(), pages), (all.len(), 10));
    println!("the slowest page of 1,000 of 10,000 took {longest:?}");
    assert!(longest < SEC * 2, "{longest:?}");
    let one = ListRequest {
        service: "service-7000".to_owned(),
        ..page(0, "")
    };
    let one = client.list(one).await.unwrap().into_inner();
    assert_eq!((one.registrations.len(), &*one.next_page_token), (1, ""));
    let mut stream = watch(&mut client).await;
    let (mut sent, mut is_complete) = (0, false);
    while !is_complete {
        let message = stream.message().await.unwrap().unwrap();
        sent += message.registrations.len();
        is_complete = message.is_complete;
    }
    assert_eq!(sent, all.len());
    registrar.shutdown_now();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_reads_keeps_only_the_latest_state() {
    let setup = Setup::new();
    let (registrar, registration) = registered(&setup).await;
    let mut client = client_with(Introspection::builder().registrar(&registrar), 1024).await;
    let mut stream = watch(&mut client).await;
    for n in 0..200 {
        let pause = registration.pause(format!("pause {n}")).unwrap();
        sleep(SEC).await;
        drop(pause);
        sleep(SEC).await;
    }
    status(&registration, RegistrationStatus::is_registered).await;
    let (mut buffered, mut last) = (0, None);
    while let Ok(message) = timeout(SEC * 3, stream.message()).await {
        buffered += 1;
        let message = message.unwrap().unwrap();
        last = message.registrations.first().map(|it| it.state()).or(last);
    }
    println!("{buffered} messages of 400 changes were buffered in a window of 1 KiB");
    assert!(buffered <= 40, "{buffered}");
    assert_eq!(last, Some(RegistrationState::Registered));
}

#[tokio::test(start_paused = true)]
async fn hostile_requests_are_refused_or_clamped() {
    let setup = Setup::new();
    let (registrar, _registration) = registered(&setup).await;
    let introspection = Introspection::builder().registrar(&registrar);
    let mut client = client(introspection.remote_control(true)).await;
    for size in [0, 1, 1000, i32::MAX] {
        let list = client.list(page(size, "")).await.unwrap();
        assert_eq!(list.into_inner().registrations.len(), 1, "{size}");
    }
    let after_the_end = format!("{}-{}", usize::MAX, u64::MAX);
    let list = client.list(page(10, &after_the_end)).await.unwrap();
    assert!(list.get_ref().registrations.is_empty());
    let long = "x".repeat(1_000_000);
    for (size, token, service) in [
        (-1, "", ""),
        (i32::MIN, "", ""),
        (1, "garbage", ""),
        (1, "0-1\0", ""),
        (1, &long, ""),
        (1, "", &long),
    ] {
        let request = ListRequest {
            service: service.to_owned(),
            ..page(size, token)
        };
        let error = client.list(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().len() < 200, "{error}");
    }
    let service = long.clone();
    let refused = client.watch(WatchRequest { service }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for (name, reason) in [
        ("", "why"),
        ("\x1b[2J", "why"),
        (&long, "why"),
        ("deploy", ""),
        ("deploy", "two\nlines"),
        ("deploy", &long),
    ] {
        let refused = client.pause(pause("", name, reason)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let mut watches = vec![];
    for _ in 0..16 {
        watches.push(watch(&mut client).await);
    }
    let refused = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    watches.clear();
    sleep(SEC).await;
    watch(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_read_makes_room_for_another_one() {
    let setup = Setup::new();
    let (registrar, registration) = registered(&setup).await;
    // No room for the rest of a message that is not read.
    let mut client = client_with(Introspection::builder().registrar(&registrar), 1).await;
    let mut unread = vec![];
    for _ in 0..16 {
        unread.push(watch(&mut client).await);
    }
    let refused = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let pause = registration.pause("why").unwrap();
    sleep(SEC * 6).await;
    drop(pause);
    status(&registration, RegistrationStatus::is_registered).await;
    // Each of these takes a place, and is read.
    let mut read = vec![];
    for _ in 0..16 {
        let mut stream = watch(&mut client).await;
        assert_eq!(next_state(&mut stream).await, RegistrationState::Registered);
        read.push(stream);
    }
    for stream in &mut unread {
        for state in [RegistrationState::Registered, RegistrationState::Paused] {
            assert_eq!(next_state(stream).await, state);
        }
        let error = stream.message().await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
    let refused = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "all are read");
    // Without a change, a client that does not read looks like one that does.
    sleep(SEC * 60).await;
    watch(&mut client).await;
    let error = read[0].message().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    let pause = registration.pause("why").unwrap();
    assert_eq!(next_state(&mut read[1]).await, RegistrationState::Paused);
    drop(pause);
}

#[tokio::test(start_paused = true)]
async fn without_remote_control_nobody_can_pause() {
    let setup = Setup::new();
    let (registrar, registration) = registered(&setup).await;
    let mut client = client(Introspection::builder().registrar(&registrar)).await;
    let refused = client.pause(pause("", "deploy", "why")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = resume(&mut client, "deploy").await;
    assert_eq!(refused, Err(Code::PermissionDenied));
    sleep(SEC * 5).await;
    assert!(registration.status().is_registered());
    assert_eq!(setup.deletes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_remote_pause_withholds_the_keys_until_it_is_resumed() {
    let setup = Setup::new();
    let (registrar, registration) = registered(&setup).await;
    let introspection = Introspection::builder().registrar(&registrar);
    let mut client = client(introspection.remote_control(true)).await;
    let none = client.pause(pause("other", "deploy", "why")).await;
    assert_eq!(none.unwrap_err().code(), Code::NotFound);
    assert_eq!(resume(&mut client, "deploy").await, Err(Code::NotFound));

    for reason in ["first", "second"] {
        let request = pause("greeter", "deploy", reason);
        let paused = client.pause(request).await.unwrap().into_inner();
        assert_eq!(paused.registrations, 1);
        sleep(SEC).await;
        assert!(setup.fake.keys().is_empty());
        let status = registration.status().to_string();
        assert_eq!(status, format!("paused: deploy: {reason}"));
    }
    assert_eq!(setup.deletes(), 1, "the second pause replaces the first");
    assert_eq!(resume(&mut client, "deploy").await, Ok(1));
    setup.key_back().await;

    for n in 0..16 {
        client
            .pause(pause("", &format!("n{n}"), "why"))
            .await
            .unwrap();
    }
    let refused = client.pause(pause("", "n16", "why")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for n in 0..16 {
        assert_eq!(resume(&mut client, &format!("n{n}")).await, Ok(1));
    }
    setup.key_back().await;
    setup.shutdown.cancel();
    registration.ended().await;
    let refused = client.pause(pause("", "late", "why")).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::NotFound | Code::FailedPrecondition),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_another_service_under_the_same_name_ends_no_pause() {
    let setup = Setup::new();
    let (registrar, _greeter) = registered(&setup).await;
    let other = announced_by(&registrar, Instance::new("other"));
    registered_within(SEC, &other).await;
    let introspection = Introspection::builder().registrar(&registrar);
    let mut client = client(introspection.remote_control(true)).await;
    for (service, left) in [("greeter", 1), ("other", 0)] {
        let paused = client.pause(pause(service, "registryctl", "why")).await;
        assert_eq!(paused.unwrap().into_inner().registrations, 1);
        setup.keys_are(left, SEC).await;
        sleep(SEC).await;
        assert_eq!(setup.fake.keys().len(), left);
    }
    assert_eq!(resume(&mut client, "registryctl").await, Ok(2));
    setup.keys_are(2, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_the_shutdown_and_ends_when_the_server_drains() {
    let setup = Setup::new();
    let (registrar, registration) = registered(&setup).await;
    let service = Introspection::builder().registrar(&registrar).build();
    let (incoming, channel) = pipe();
    let server = Server::builder()
        .layer(registration.layer())
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = Client::new(channel.await);
    let mut stream = watch(&mut client).await;
    setup.shutdown.cancel();
    let mut phases = vec![];
    let read = async {
        while let Some(message) = stream.message().await.unwrap() {
            for told in message.registrations {
                phases.push(told.shutdown());
                let has_end = told.shutdown_ends_in_ms.is_some();
                assert_eq!(has_end, told.shutdown() != ShutdownPhase::Unspecified);
                assert_eq!(told.in_flight, 1, "this watch");
            }
        }
    };
    let began = Instant::now();
    timeout(LONG, read).await.unwrap();
    assert!(began.elapsed() < SEC * 3, "{:?}", began.elapsed());
    phases.dedup();
    use ShutdownPhase::{Delay, Deregistering, Draining, Unspecified};
    let all = [Unspecified, Deregistering, Delay, Draining];
    let mut expected = all.iter();
    // One that takes less than the interval may be missing.
    let in_order = phases.iter().all(|it| expected.any(|next| next == it));
    assert!(in_order, "{phases:?}");
    assert!(phases.ends_with(&[Delay, Draining]), "{phases:?}");
}

#[tokio::test(start_paused = true)]
async fn each_member_of_etcd_is_reported_with_its_state_and_last_error() {
    use EtcdEndpointState::{Connected, Failing, Refusing, Untried};
    let setup = Setup::new();
    let url = |member: &str| format!("http://{member}:2379");
    let members = ["a", "b", "c"];
    let down = |member: &str| setup.fake.member(member).down();
    let etcd = Etcd::new(members.map(url)).connector(setup.fake.connector());
    let registrar = setup.builder_on(etcd).build().unwrap();
    let mut client = client(Introspection::builder().registrar(&registrar)).await;
    let mut endpoints = async || {
        let process = list(&mut client).await.process.unwrap();
        process.registrars[0].endpoints.clone()
    };
    let states = |all: &[EtcdEndpoint]| all.iter().map(|it| it.state()).collect::<Vec<_>>();
    assert_eq!(states(&endpoints().await), [Untried; 3]);

    down("a");
    let b = setup.fake.member("b");
    b.always(Rpc::LeaseGrant, Reply::DENIED);
    down("c");
    let registration = announced_by(&registrar, greeter());
    sleep(SEC * 20).await;
    let seen = endpoints().await;
    assert_eq!(states(&seen), [Failing, Refusing, Failing], "{seen:#?}");
    for (endpoint, error) in seen.iter().zip(["refused", "permission denied", "refused"]) {
        assert!(endpoint.last_error.contains(error), "{endpoint:?}");
        assert!(!endpoint.last_error.contains("http://"), "{endpoint:?}");
        assert!(endpoint.failing_for_ms >= Some(15_000), "{endpoint:?}");
        assert!(!endpoint.is_connected);
    }
    setup.fake.member("c").up();
    status(&registration, RegistrationStatus::is_registered).await;
    let seen = endpoints().await;
    assert_eq!(states(&seen)[2], Connected, "{seen:#?}");
    assert!(seen[2].is_connected && seen[2].failing_for_ms.is_none());
    // It stays.
    assert!(seen[2].last_error.contains("refused"), "{seen:#?}");
}

#[tokio::test(start_paused = true)]
async fn no_message_has_a_user_or_a_password() {
    let setup = Setup::new();
    let etcd = setup.etcd().user("the-user", "the-password");
    let registrar = setup.builder_on(etcd).build().unwrap();
    let _registration = announced_by(&registrar, greeter());
    sleep(SEC * 10).await;
    let mut client = client(Introspection::builder().registrar(&registrar)).await;
    let text = format!("{:?}", list(&mut client).await);
    assert!(text.contains("http://etcd:2379"), "{text}");
    for secret in ["the-user", "the-password"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn a_reflection_service_can_describe_it() {
    let name = "tonic_etcd.registration.v1.Introspection";
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .with_service_name(name);
    assert!(reflection.build_v1().is_ok());
    use tonic::server::NamedService;
    use tonic_etcd::introspection::pb::introspection_server::IntrospectionServer;
    assert_eq!(IntrospectionServer::<Introspection>::NAME, name);
}

#[cfg(feature = "discovery")]
#[tokio::test(start_paused = true)]
async fn discoveries_and_channels_are_reported_with_their_errors() {
    use crate::discovery::{discovery, put};
    use crate::support::fake::FakeEtcd;
    use tonic_etcd::introspection::pb::ConnectivityState;
    let fake = FakeEtcd::new();
    put(&fake, 0..3);
    fake.put("/services/greeter/unreadable", "{\"name\":", 0);
    let discovery = discovery(&fake);
    let channel = discovery.channel().build().unwrap();
    discovery.ready().await;
    let introspection = Introspection::builder().discovery(&discovery);
    let mut client = client(introspection.channel("greeters", &channel)).await;
    let mut stream = watch(&mut client).await;
    let first = stream.message().await.unwrap().unwrap();
    let told = &first.process.unwrap().discoveries[0];
    assert_eq!(told.service, "greeter");
    assert_eq!(told.prefix, "/services/greeter/");
    assert_eq!((told.instances, told.skipped, told.missing), (3, 1, 0));
    assert!(told.revision > 0 && told.watch_error.is_empty(), "{told:?}");
    let [skipped] = &told.skipped_by_reason[..] else {
        panic!("{told:?}");
    };
    assert_eq!(skipped.keys, 1);
    assert_eq!(skipped.example, "/services/greeter/unreadable");
    assert!(skipped.reason.contains("is not the JSON of an instance"));
    let age = |process: &Process| process.discoveries[0].answer_age_ms;
    let age_now = age(&list(&mut client).await.process.unwrap());
    assert!(age_now.is_some_and(|ms| ms < 2000), "{age_now:?}");
    fake.down();
    let reason = async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            let process = message.process.unwrap_or_default();
            let told = process.discoveries.first();
            if let Some(told) = told.filter(|told| !told.watch_error.is_empty()) {
                return told.clone();
            }
        }
    };
    let told = timeout(LONG, reason).await.unwrap();
    assert_eq!(told.instances, 3, "the last set stays");
    let process = list(&mut client).await.process.unwrap();
    sleep(SEC * 10).await;
    let age_later = age(&list(&mut client).await.process.unwrap());
    assert!(age_later >= Some(10_000), "{age_later:?}");
    let channel = &process.channels[0];
    assert_eq!((&*channel.name, channel.endpoints_total), ("greeters", 3));
    for endpoint in &channel.endpoints {
        assert!(endpoint.address.starts_with("10.0.0.1:"));
        assert_ne!(endpoint.state(), ConnectivityState::Unspecified);
    }
}
