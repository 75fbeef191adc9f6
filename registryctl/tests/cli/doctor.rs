//! `registryctl doctor` on setups with one mistake each, and on healthy ones.

use etcd_client::{AlarmAction, AlarmType, Client, Permission, PutOptions};
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;
use test_support::certificates::{Authority, Identity, write};
use test_support::cluster::Cluster;
use test_support::etcd::{Etcd, users};
use test_support::ports::{closed, free_addr};
use test_support::secured::Secured;
use test_support::server::ServerProcess;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Certificate, Server, ServerTlsConfig};
use tonic_health::ServingStatus;

/// What the command printed.
struct Diagnosis {
    code: i32,
    text: String,
}

/// The exit codes.
const FINE: i32 = 0;
const WARNING: i32 = 1;
const PROBLEM: i32 = 2;
/// A command that takes longer counts as hung.
const HANGS: Duration = Duration::from_secs(30);

async fn doctor(etcd: &str, flags: &[&str]) -> Diagnosis {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registryctl"));
    command.args(["doctor", "--etcd", etcd]).args(flags);
    command.kill_on_drop(true);
    let output: Output = timeout(HANGS, command.output()).await.unwrap().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Diagnosis {
        code: output.status.code().unwrap(),
        text: out + &err,
    }
}

// === impl Diagnosis ===

impl Diagnosis {
    /// Checks the exit code, the first cause and the next steps.
    #[track_caller]
    fn says(&self, code: i32, cause: &str, next: &str) {
        let last = self.text.lines().next_back().unwrap_or_default();
        assert!(last.contains("first cause: "), "{}", self.text);
        let text = &self.text;
        assert!(last.contains(cause), "{cause:?} is no cause of:\n{text}");
        assert!(text.contains(next), "no {next:?} in:\n{text}");
        assert_eq!(self.code, code, "{text}");
    }

    #[track_caller]
    fn is_healthy(&self) {
        let last = self.text.lines().next_back().unwrap_or_default();
        assert!(last.contains("nothing wrong was found"), "{}", self.text);
        assert_eq!(self.code, FINE, "{}", self.text);
    }
}

/// A server with a health service only.
async fn serve(status: [ServingStatus; 2]) -> (SocketAddr, AbortOnDropHandle<()>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", status[0]).await;
    let own = tonic_etcd::HEALTH_NAME;
    reporter.set_service_status(own, status[1]).await;
    serve_router(Server::builder().add_service(service)).await
}

async fn serve_router(router: Router) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(free_addr()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = TcpIncoming::from(listener);
    let served = tokio::spawn(async { router.serve_with_incoming(incoming).await.unwrap() });
    (addr, AbortOnDropHandle::new(served))
}

/// A server with TLS and a health service only; it asks for a certificate of `clients` if that is given.
async fn serve_secured(
    identity: &Identity,
    clients: Option<&Authority>,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let mut tls = ServerTlsConfig::new().identity(identity.for_tonic());
    if let Some(clients) = clients {
        tls = tls.client_ca_root(Certificate::from_pem(&clients.pem));
    }
    let mut server = Server::builder().tls_config(tls).unwrap();
    serve_router(server.add_service(tonic_health::server::health_reporter().1)).await
}

/// A server that answers whatever comes first with these bytes, and closes.
async fn answer(bytes: &'static [u8]) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(free_addr()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    (addr, AbortOnDropHandle::new(served))
}

/// Writes an instance under a lease that nobody needs to renew during the test.
async fn put(client: &mut Client, key: &str, value: impl ToString) {
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let options = Some(PutOptions::new().with_lease(lease));
    client.put(key, value.to_string(), options).await.unwrap();
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_healthy_service() {
    let etcd = Etcd::start().await;
    let greeter = ServerProcess::start(&etcd.endpoint(), &[]);
    greeter.registered().await;
    let flags: &[&str] = match users::of_servers() {
        Some((name, password)) => &["greeter", "--user", name, "--password", password],
        None => &["greeter"],
    };
    doctor(&etcd.endpoint(), flags).await.is_healthy();
    let json = doctor(&etcd.endpoint(), &[flags, &["--json"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(json.text.trim()).unwrap();
    assert_eq!(json["verdict"], "ok", "{json}");
    assert_eq!(json["first_cause"], serde_json::Value::Null, "{json}");
    drop(greeter);
}

#[tokio::test]
async fn doctor_is_quick_with_a_hundred_instances() {
    let etcd = Etcd::start_with(&[]).await;
    let mut client = etcd.client().await;
    let mut servers = vec![];
    for n in 0..100 {
        let (addr, server) = serve([ServingStatus::Serving; 2]).await;
        put(&mut client, &format!("/services/greeter/{n}/1"), addr).await;
        servers.push(server);
    }
    let began = Instant::now();
    let diagnosis = doctor(&etcd.endpoint(), &["greeter"]).await;
    let took = began.elapsed();
    diagnosis.is_healthy();
    assert!(diagnosis.text.contains("100 instances say SERVING"));
    println!("doctor took {took:?} for 100 instances");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_the_keys() {
    let etcd = Etcd::start_with(&[]).await;
    let at = etcd.endpoint();
    let (good, _serves) = serve([ServingStatus::Serving; 2]).await;
    let mut client = etcd.client().await;
    put(&mut client, "/services/greeter/a/1", good).await;
    put(&mut client, "/other/orders/a/1", good).await;
    put(&mut client, "/microservices/billing/a", "{}").await;
    put(&mut client, "/services/foreign/a/1", "{not json").await;
    put(&mut client, "/services/nowhere/a/1", "0.0.0.0:9000").await;
    put(&mut client, "/services/twice/a/1", good).await;
    put(&mut client, "/services/twice/b/1", good).await;
    put(&mut client, "/services/both/10.0.0.1/1", good).await;
    put(&mut client, "/services/both/10.0.0.1/1", good).await;
    let no_lease = client.put("/services/forever/a/1", good.to_string(), None);
    no_lease.await.unwrap();

    doctor(&at, &["greeter"]).await.is_healthy();
    let none = "nothing is registered";
    for (service, code, cause, next) in [
        ("greter", PROBLEM, none, "did you mean greeter?"),
        ("orders", PROBLEM, none, "--prefix /other"),
        ("billing", PROBLEM, none, "--format kratos"),
        ("absent", PROBLEM, none, "no server of absent runs"),
        ("foreign", PROBLEM, "read as plain", "--format"),
        ("nowhere", PROBLEM, "0.0.0.0:9000", "mend what writes"),
        ("twice", WARNING, "registered by several", "left over"),
        ("both", PROBLEM, "two servers take it", "{addr} or {id}"),
        ("forever", WARNING, "has no lease", "etcdctl del"),
    ] {
        doctor(&at, &[service]).await.says(code, cause, next);
    }
    let usage = doctor(&at, &["a/b"]).await;
    assert_eq!(usage.code, PROBLEM, "{}", usage.text);
    assert!(usage.text.contains("a name is one part"), "{}", usage.text);
}

#[tokio::test]
async fn doctor_reports_a_lease_that_nobody_renews() {
    let etcd = Etcd::start_with(&[]).await;
    let (good, _serves) = serve([ServingStatus::Serving; 2]).await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(12, None).await.unwrap().id();
    let options = Some(PutOptions::new().with_lease(lease));
    let key = "/services/greeter/a/1";
    client.put(key, good.to_string(), options).await.unwrap();
    // Of twelve seconds four are left, or less.
    sleep(Duration::from_millis(8500)).await;
    let diagnosis = doctor(&etcd.endpoint(), &["greeter"]).await;
    diagnosis.says(WARNING, "nobody renews", "cut off from etcd");
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_the_servers() {
    let etcd = Etcd::start_with(&[]).await;
    let at = etcd.endpoint();
    let mut client = etcd.client().await;
    let (ill, _ill) = serve([ServingStatus::NotServing; 2]).await;
    let own = [ServingStatus::Serving, ServingStatus::NotServing];
    let (lost, _lost) = serve(own).await;
    let silent = TcpListener::bind(free_addr()).await.unwrap();
    let (http1, _http1) = answer(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let (tls, _tls) = answer(b"\x15\x03\x03\0\x02\x02\x46").await;
    let (closes, _closes) = answer(b"").await;
    for (service, address) in [
        ("ill", ill.to_string()),
        ("lost", lost.to_string()),
        ("refused", format!("127.0.0.1:{}", closed())),
        ("silent", silent.local_addr().unwrap().to_string()),
        ("http1", http1.to_string()),
        ("closes", closes.to_string()),
        ("unknown", "greeter.invalid:9000".to_owned()),
        ("tls", tls.to_string()),
    ] {
        put(&mut client, &format!("/services/{service}/a/1"), address).await;
    }
    for (service, cause, next) in [
        ("ill", "says NOT_SERVING", "its log"),
        ("lost", "does not hold its key", "paused"),
        ("refused", "cannot be connected to", "listens there"),
        ("silent", "does not answer", "hangs or is stopped"),
        ("http1", "HTTP/1", "another server's"),
        ("closes", "closes the connection", "log"),
        ("unknown", "cannot be resolved", "host name"),
    ] {
        doctor(&at, &[service]).await.says(PROBLEM, cause, next);
    }
    doctor(&at, &["tls"])
        .await
        .says(WARNING, "want TLS", "with TLS");
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_the_endpoint() {
    let silent = TcpListener::bind(free_addr()).await.unwrap();
    let silent = silent.local_addr().map(|addr| (addr, silent)).unwrap();
    let (http1, _http1) = answer(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let (no_etcd, _serves) = serve([ServingStatus::Serving; 2]).await;
    let refused = format!("127.0.0.1:{}", closed());
    let unknown = "etcd.invalid:2379".to_owned();
    for (endpoint, cause, next) in [
        (refused, "cannot be connected to", "--etcd"),
        (unknown, "cannot be resolved", "name in --etcd"),
        (silent.0.to_string(), "does not answer", "hangs"),
        (http1.to_string(), "HTTP/1", "2379"),
        (no_etcd.to_string(), "etcd", "log of that member"),
    ] {
        let began = Instant::now();
        let diagnosis = doctor(&endpoint, &["greeter"]).await;
        diagnosis.says(PROBLEM, cause, next);
        assert!(began.elapsed() < Duration::from_secs(15), "{endpoint}");
    }
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_the_user() {
    let etcd = Etcd::start_with_users(&[users::CHEAP]).await;
    let at = etcd.endpoint();
    let (name, password) = users::SERVERS;
    let as_server = ["--user", name, "--password", password];
    let with = |flags: &[&'static str]| [flags, &as_server].concat();
    let (good, _serves) = serve([ServingStatus::Serving; 2]).await;
    let mut client = users::connect_as(&at, users::ROOT).await.unwrap();
    put(&mut client, "/services/greeter/a/1", good).await;
    doctor(&at, &with(&["greeter"])).await.is_healthy();
    let wrong = ["greeter", "--user", name, "--password", "wrong"];
    let secret = with(&["greeter", "--prefix", "/secret"]);
    for (flags, cause, next) in [
        (&["greeter"][..], "user name is empty", "give --user"),
        (&wrong, "authentication failed", "--password"),
        (&secret, "permission denied", "grant-permission"),
    ] {
        doctor(&at, flags).await.says(PROBLEM, cause, next);
    }
    // A role that may read and no more.
    client.role_add("reader").await.unwrap();
    let read = Permission::read("/services/greeter/").with_prefix();
    client.role_grant_permission("reader", read).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    let reader = ["greeter", "--user", "reader", "--password", "secret"];
    doctor(&at, &reader).await.is_healthy();

    let open = Etcd::start_with(&[]).await;
    put(&mut open.client().await, "/services/greeter/a/1", good).await;
    let diagnosis = doctor(&open.endpoint(), &with(&["greeter"])).await;
    diagnosis.says(WARNING, "authentication is not enabled", "--user");
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_tls() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let secured = Secured::start(&authority.sign("127.0.0.1"), None).await;
    let (good, _serves) = serve([ServingStatus::Serving; 2]).await;
    let mut client = secured.etcd.client().await;
    put(&mut client, "/services/greeter/a/1", good).await;
    let write = |name: &str, authority: &Authority| {
        let file = secured.files.path().join(name);
        std::fs::write(&file, &authority.pem).unwrap();
        file.display().to_string()
    };
    let (right, wrong) = (write("right", &authority), write("wrong", &other));
    let trusts = |file| ["greeter", "--cacert", file];
    let (right, wrong) = (trusts(&right), trusts(&wrong));
    doctor(&secured.endpoint, &right).await.is_healthy();
    let plain = secured.endpoint.replace("https", "http");
    let secure = secured.etcd.endpoint().replace("http", "https");
    for (endpoint, flags, cause, next) in [
        (&secured.endpoint, &wrong[..], "certificate", "--cacert"),
        (&plain, &["greeter"], "wants TLS", "https://"),
        (&secure, &right, "without TLS", "try http://"),
    ] {
        doctor(endpoint, flags).await.says(PROBLEM, cause, next);
    }
}

#[tokio::test]
async fn doctor_dials_servers_with_tls_and_names_what_does_not_match() {
    let etcd = Etcd::start_with(&[]).await;
    let at = etcd.endpoint();
    let mut client = etcd.client().await;
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let here = authority.sign("127.0.0.1");
    let (open, _open) = serve_secured(&here, None).await;
    let (named, _named) = serve_secured(&authority.sign("greeter.example"), None).await;
    let (asks, _asks) = serve_secured(&here, Some(&authority)).await;
    let (plain, _plain) = serve([ServingStatus::Serving; 2]).await;
    let services = ["open", "named", "asks", "plain"];
    for (service, addr) in services.into_iter().zip([open, named, asks, plain]) {
        put(&mut client, &format!("/services/{service}/a/1"), addr).await;
    }
    let files = tempfile::tempdir().unwrap();
    let file = |name, pem: &str| write(files.path(), name, pem).display().to_string();
    let (ca, wrong) = (file("ca", &authority.pem), file("wrong", &other.pem));
    let (cert, key) = (file("cert", &here.certificate), file("key", &here.key));
    let trusts = ["--server-ca-file", &*ca];
    let identity = ["--server-cert-file", &*cert, "--server-key-file", &*key];
    let name = ["--server-tls-name", "greeter.example"];
    for (service, flags) in [
        ("open", [&trusts[..], &[]]),
        ("named", [&trusts[..], &name]),
        ("asks", [&trusts[..], &identity]),
        ("plain", [&[], &[]]),
    ] {
        let args = [&[service], flags[0], flags[1]].concat();
        doctor(&at, &args).await.is_healthy();
    }
    let wrong = ["--server-ca-file", &*wrong];
    let (fails, no_tls) = ("the handshake fails", "answers without TLS");
    // Its refusal comes during the handshake or after it.
    for (service, flags, cause, next) in [
        ("open", &wrong, fails, "--server-ca-file"),
        ("named", &trusts, fails, "--server-tls-name"),
        ("asks", &trusts, "connect: ", "--server-cert-file"),
        ("plain", &trusts, no_tls, "give it a certificate"),
    ] {
        let diagnosis = doctor(&at, &[&[service], &flags[..]].concat()).await;
        diagnosis.says(PROBLEM, cause, next);
    }
    let diagnosis = doctor(&at, &["open"]).await;
    diagnosis.says(WARNING, "want TLS", "--server-ca-file");
    let missing = doctor(&at, &["open", "--server-ca-file", "no/such/file"]).await;
    assert_eq!(missing.code, PROBLEM, "{}", missing.text);
    assert!(missing.text.contains("no/such/file"), "{}", missing.text);
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_the_members() {
    let mut cluster = Cluster::start().await;
    let at = cluster.endpoints().join(",");
    let (name, password) = users::ROOT;
    let flags: &[&str] = match users::are_wanted() {
        true => &["greeter", "--user", name, "--password", password],
        false => &["greeter"],
    };
    let (good, _serves) = serve([ServingStatus::Serving; 2]).await;
    let mut client = cluster.members[0].client().await;
    put(&mut client, "/services/greeter/a/1", good).await;
    doctor(&at, flags).await.is_healthy();

    let alarm = client.alarm(AlarmAction::Activate, AlarmType::Nospace, None);
    alarm.await.unwrap();
    doctor(&at, flags).await.says(PROBLEM, "NOSPACE", "disarm");
    let off = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None);
    off.await.unwrap();

    cluster.add_learner().await;
    let learner = cluster.members.pop().unwrap();
    let with_it = format!("{},{at}", learner.endpoint());
    doctor(&with_it, flags)
        .await
        .says(WARNING, "is a learner", "member promote");
    drop(learner);

    cluster.members[2].kill().await;
    // It may have been the leader.
    cluster.leader().await;
    let began = Instant::now();
    let diagnosis = doctor(&at, flags).await;
    diagnosis.says(WARNING, "cannot be connected to", "--etcd");
    println!("doctor took {:?} with a dead member", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(15));
    cluster.members[1].kill().await;
    // After an election timeout the remaining member has noticed that there is no leader.
    sleep(Duration::from_secs(3)).await;
    let diagnosis = doctor(&at, flags).await;
    diagnosis.says(PROBLEM, "no quorum", "bring members back");
}
