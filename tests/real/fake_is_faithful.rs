//! Sends the same requests to a real etcd and to the fake: the answers must be equal, including codes, texts and revisions.
//!
//! Both start empty, so answers are compared literally, except their origin (cluster, member, term). A text that the library
//! depends on is also asserted here, so that a new etcd version with another text fails with its own line.

use std::fmt::Debug;
use std::time::Duration;

use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions,
    LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    WatchFilterType, WatchOptions, WatchStream,
};
use tokio::time::{Instant, timeout};

use crate::support::etcd::{Etcd, is_since, version};
use crate::support::fake::FakeEtcd;

/// The answers, one per line.
#[derive(Default)]
struct Transcript(Vec<String>);

#[tokio::test]
async fn reads_and_writes_answer_alike() {
    let said = both(async |mut c, said| {
        let prev = || Some(PutOptions::new().with_prev_key());
        said.note("fresh", c.get("a", None).await);
        said.note("put", c.put("a/1", "x", None).await);
        said.note("put again", c.put("a/1", "y", prev()).await);
        said.note("another", c.put("a/2", "", None).await);
        said.note("beside", c.put("b", "z", None).await);

        let prefix = || GetOptions::new().with_prefix();
        said.note("one", c.get("a/1", None).await);
        said.note("none", c.get("a/3", None).await);
        said.note("prefix", c.get("a/", Some(prefix())).await);
        said.note("keys", c.get("a/", Some(prefix().with_keys_only())).await);
        said.note("count", c.get("a/", Some(prefix().with_count_only())).await);
        said.note("limit", c.get("a/", Some(prefix().with_limit(1))).await);
        let all = || GetOptions::new().with_all_keys();
        said.note("all", c.get("", Some(all())).await);
        let newest = all().with_sort(SortTarget::Mod, SortOrder::Descend);
        said.note("sorted", c.get("", Some(newest)).await);
        let since = all().with_min_mod_revision(4);
        said.note("since", c.get("", Some(since)).await);
        said.note("past", c.get("a/", Some(prefix().with_revision(2))).await);
        let backwards = GetOptions::new().with_range("a");
        said.note("backwards", c.get("b", Some(backwards)).await);

        said.note("delete none", c.delete("a/3", None).await);
        let with_prev = DeleteOptions::new().with_prefix().with_prev_key();
        said.note("delete", c.delete("a/", Some(with_prev)).await);
        let past = prefix().with_revision(5);
        said.note("past of deleted", c.get("a/1", Some(past)).await);
        said.note("born again", c.put("a/1", "new", None).await);
        said.note("and seen", c.get("a/1", None).await);

        let keep_value = || Some(PutOptions::new().with_ignore_value());
        let keep_lease = || Some(PutOptions::new().with_ignore_lease());
        said.note("keep value", c.put("a/1", "", keep_value()).await);
        said.note("keep lease", c.put("a/1", "v", keep_lease()).await);
        said.note("keep no value", c.put("no", "", keep_value()).await);
        said.note("keep what", c.put("a/1", "v", keep_value()).await);
    })
    .await;
    said.has("keep no value: InvalidArgument: etcdserver: key not found");
}

/// A range without values has the lease up to 3.6, and from 3.7 on only when
/// it is sorted by value. The library reads leases in this way, so the lines are literal.
#[tokio::test]
async fn leases_without_values_answer_alike() {
    let said = both(async |mut c, said| {
        c.lease_grant(60, id(9)).await.expect("a lease");
        c.put("a", "x", under(9)).await.expect("a put");
        let keys_only = || GetOptions::new().with_keys_only();
        let by_value = || keys_only().with_sort(SortTarget::Value, SortOrder::Ascend);
        let by_key = || keys_only().with_sort(SortTarget::Key, SortOrder::Ascend);
        let by_mod = || keys_only().with_sort(SortTarget::Mod, SortOrder::Ascend);
        said.note("plain", c.get("a", Some(keys_only())).await);
        said.note("by key", c.get("a", Some(by_key())).await);
        said.note("by mod", c.get("a", Some(by_mod())).await);
        said.note("by value", c.get("a", Some(by_value())).await.map(lease_of));
        let past = by_value().with_revision(2);
        said.note("before", c.get("a", Some(past)).await.map(lease_of));
        let both = [keys_only(), by_value()].map(|options| TxnOp::get("a", Some(options)));
        said.note("in a transaction", c.txn(all(both)).await);
    })
    .await;
    said.has("by value: Some((9, 2, \"\"))");
    said.has("before: Some((9, 2, \"\"))");
}

fn lease_of(reply: etcd_client::GetResponse) -> Option<(i64, i64, String)> {
    let kv = reply.kvs().first()?;
    let value = String::from_utf8_lossy(kv.value()).into_owned();
    Some((kv.lease(), kv.mod_revision(), value))
}

#[tokio::test]
async fn refusals_have_the_same_codes_and_texts() {
    let said = both(async |mut c, said| {
        said.note("no key", c.put("", "x", None).await);
        said.note("read no key", c.get("", None).await);
        said.note("delete no key", c.delete("", None).await);
        said.note("no lease", c.put("a", "x", under(7)).await);
        said.note("revoke", c.lease_revoke(7).await);
        said.note("renew", c.lease_keep_alive(7).await.map(|_| ()));
        said.note("huge", c.put("a", vec![0; 1536 * 1024], None).await);
        let largest = vec![0; 1536 * 1024 - 1024];
        said.note("largest", c.put("a", largest, None).await);
        let at = |revision| Some(GetOptions::new().with_revision(revision));
        said.note("future", c.get("a", at(99)).await);
        said.note("compact future", c.compact(99, None).await);
        said.note("compact", c.compact(2, None).await);
        said.note("compact again", c.compact(2, None).await);
        said.note("past", c.get("a", at(1)).await);
        said.note("too long", c.lease_grant(9_000_000_001, None).await);
        let user = ("u".to_owned(), "p".to_owned());
        said.note("auth", c.update_user(Some(user)).await);
    })
    .await;
    said.has("no lease: NotFound: etcdserver: requested lease not found");
    said.has("revoke: NotFound: etcdserver: requested lease not found");
    said.has("renew: lease keep alive error: lease not found");
    said.has("too long: OutOfRange: etcdserver: too large lease TTL");
    said.has("huge: InvalidArgument: etcdserver: request is too large");
}

#[tokio::test]
async fn transactions_answer_alike() {
    let said = both(async |mut c, said| {
        let put = |key: &str, value: &str| TxnOp::put(key, value, None);
        let get = |key: &str| TxnOp::get(key, None);
        let delete = |key: &str| TxnOp::delete(key, None);
        c.lease_grant(60, id(5)).await.expect("a lease");
        let create = Txn::new()
            .when([Compare::version("k", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("k", "1", under(5)), put("l", "2"), get("k")])
            .or_else([get("k")]);
        said.note("created", c.txn(create.clone()).await);
        said.note("is there", c.txn(create).await);

        let (version, lease) = (Compare::version, Compare::lease);
        let (created, modified) = (Compare::create_revision, Compare::mod_revision);
        use CompareOp::{Equal, Greater, Less, NotEqual};
        let holds = [
            ("version", version("k", Equal, 1)),
            ("create", created("k", Less, 3)),
            ("mod", modified("k", Greater, 2)),
            ("lease", lease("k", Equal, 5)),
            ("other lease", lease("l", NotEqual, 5)),
            ("value", Compare::value("k", Equal, "1")),
            ("greater value", Compare::value("k", Greater, "0")),
            ("missing value", Compare::value("none", NotEqual, "x")),
            ("missing mod", modified("none", Equal, 0)),
            ("missing lease", lease("none", Equal, 0)),
            ("range", version("", Equal, 1).with_prefix()),
            ("empty range", version("x", Greater, 0).with_prefix()),
        ];
        for (what, compare) in holds {
            said.note(what, c.txn(Txn::new().when([compare])).await);
        }

        let mixed = [
            get("k"),
            put("m", "3"),
            get("m"),
            delete("l"),
            delete("none"),
            get("l"),
        ];
        said.note("mixed", c.txn(all(mixed)).await);
        let no_change = [get("k"), delete("none")];
        said.note("no change", c.txn(all(no_change)).await);
        said.note("empty", c.txn(Txn::new()).await);

        let inner = Txn::new()
            .when([Compare::version("n", CompareOp::Equal, 0)])
            .and_then([put("inner", "then")])
            .or_else([put("inner", "else")]);
        let outer = all([put("n", "before"), TxnOp::txn(inner)]);
        said.note("nested sees the state before", c.txn(outer).await);

        let no_lease = TxnOp::put("b", "2", under(9));
        let half = all([put("a", "1"), no_lease.clone()]);
        said.note("no lease", c.txn(half).await);
        said.note("nothing of it", c.get("a", None).await);
        let other_branch = all([put("a", "1")]).or_else([no_lease]);
        said.note("lease of the other branch", c.txn(other_branch).await);

        let twice = [put("x", "1"), put("x", "2")];
        said.note("twice", c.txn(all(twice)).await);
        let put_and_delete = [put("x", "1"), delete("x")];
        said.note("put and delete", c.txn(all(put_and_delete)).await);
        let range = TxnOp::delete("w", Some(DeleteOptions::new().with_range("y")));
        said.note("put in range", c.txn(all([put("x", "1"), range])).await);
        let deleted_twice = [delete("x"), delete("x")];
        said.note("deleted twice", c.txn(all(deleted_twice)).await);
        let either = all([put("x", "1")]).or_else([put("x", "2")]);
        said.note("either", c.txn(either.clone()).await);
        let nested_either = [TxnOp::txn(either.clone())];
        said.note("nested either", c.txn(all(nested_either)).await);
        let nested_twice = [put("x", "0"), TxnOp::txn(either)];
        said.note("nested twice", c.txn(all(nested_twice)).await);
        said.note("no key", c.txn(all([put("", "1")])).await);

        let many = |count: usize| Vec::from_iter((0..count).map(|i| put(&format!("many/{i}"), "")));
        said.note("128", c.txn(all(many(128))).await.map(|t| t.succeeded()));
        said.note("129", c.txn(all(many(129))).await);
        said.note("129 else", c.txn(Txn::new().or_else(many(129))).await);
        let deep = |count| all([TxnOp::txn(all(many(count)))]);
        said.note("127 nested", c.txn(deep(127)).await.map(|t| t.succeeded()));
        said.note("128 nested", c.txn(deep(128)).await);
    })
    .await;
    said.has("129: InvalidArgument: etcdserver: too many operations in txn request");
    said.has("no lease: NotFound: etcdserver: requested lease not found");
    said.has("twice: InvalidArgument: etcdserver: duplicate key given in txn request");
}

#[tokio::test]
async fn leases_answer_alike() {
    let said = both(async |mut c, said| {
        let with_keys = || Some(LeaseTimeToLiveOptions::new().with_keys());
        said.note("grant", c.lease_grant(60, id(1)).await);
        said.note("grant again", c.lease_grant(60, id(1)).await);
        said.note("short", c.lease_grant(1, id(2)).await);
        said.note("zero", c.lease_grant(0, id(3)).await);
        said.note("negative", c.lease_grant(-5, id(4)).await);
        said.note("longest", c.lease_grant(9_000_000_000, id(5)).await);
        let chosen = c.lease_grant(60, None).await;
        said.note("chosen by etcd", chosen.map(|l| l.id() > 0));

        said.note("put", c.put("b", "", under(1)).await);
        said.note("put", c.put("a", "", under(1)).await);
        let both_keys = c.lease_time_to_live(1, with_keys()).await;
        // In no particular order.
        let lengths = both_keys.map(|l| Vec::from_iter(l.keys().iter().map(Vec::len)));
        said.note("its keys", lengths);
        said.note("moved", c.put("a", "", under(2)).await);
        said.note("moved", c.lease_time_to_live(1, with_keys()).await);
        said.note("without", c.put("a", "", None).await);
        said.note("without", c.lease_time_to_live(2, with_keys()).await);
        said.note("unknown", c.lease_time_to_live(99, with_keys()).await);
        c.lease_revoke(2).await.expect("a revoke");
        said.note("key of a former lease", c.get("a", None).await);

        let (mut requests, mut replies) = c.lease_keep_alive(1).await.expect("a keep-alive");
        requests.keep_alive().await.expect("a request");
        said.note("renewed", replies.message().await);
        said.note("two keys", c.put("c", "", under(1)).await);
        said.note("revoke", c.lease_revoke(1).await);
        let all_keys = GetOptions::new().with_all_keys();
        said.note("all gone", c.get("", Some(all_keys)).await);
        requests.keep_alive().await.expect("a request");
        said.note("renewed after", replies.message().await);
        said.note("revoke empty", c.lease_revoke(5).await);
        said.note("revoke again", c.lease_revoke(5).await);
    })
    .await;
    said.has("grant again: FailedPrecondition: etcdserver: lease already exists");
}

#[tokio::test]
async fn leases_run_out_alike() {
    let said = both(async |mut c, said| {
        c.lease_grant(2, id(1)).await.expect("a lease");
        let granted = Instant::now();
        c.put("a", "", under(1)).await.expect("a put");
        c.put("b", "", under(1)).await.expect("a put");
        let mut watch = open(&mut c, "", WatchOptions::new().with_all_keys()).await;
        said.note("gone", next_of(&mut watch).await);
        let lived = granted.elapsed();
        let (least, most) = (Duration::from_millis(1990), Duration::from_millis(2900));
        said.note("in time", Ok((least..most).contains(&lived)));
        said.note("renewal", c.lease_keep_alive(1).await.map(|_| ()));
        said.note("ttl", c.lease_time_to_live(1, None).await);
        said.note("revoke", c.lease_revoke(1).await);
    })
    .await;
    said.has("in time: true");
}

/// etcd keeps a lease that has expired until its next sweep; a renewal in between waits, and is answered that the lease is
/// gone.
#[tokio::test]
async fn a_renewal_that_is_just_too_late_is_answered_that_the_lease_is_gone() {
    both(async |mut c, said| {
        c.lease_grant(2, id(1)).await.expect("a lease");
        let (mut requests, mut replies) = c.lease_keep_alive(1).await.expect("a keep-alive");
        tokio::time::sleep(Duration::from_millis(2005)).await;
        requests.keep_alive().await.expect("a request");
        let reply = replies.message().await;
        said.note("too late", reply.map(|r| r.map(|r| (r.id(), r.ttl()))));
    })
    .await;
}

#[tokio::test]
async fn watches_answer_alike() {
    let said = both(async |mut c, said| {
        c.put("a/1", "old", None).await.expect("a put");
        let prefix = || WatchOptions::new().with_prefix();
        let mut news = open(&mut c, "a/", prefix()).await;
        let mut history = watch(&mut c, "a/", prefix().with_start_revision(1)).await;
        said.note("created", history.message().await);
        said.note("history", next_of(&mut history).await);
        let mut one = open(&mut c, "a/2", WatchOptions::new()).await;
        let mut future = watch(&mut c, "a/", prefix().with_start_revision(5)).await;
        said.note("future created", future.message().await);
        let only = |filter| prefix().with_filters([filter]);
        let mut deletes = open(&mut c, "a/", only(WatchFilterType::NoPut)).await;
        let mut puts = open(&mut c, "a/", only(WatchFilterType::NoDelete)).await;

        c.put("a/2", "x", None).await.expect("revision 3");
        said.note("put", next_of(&mut news).await);
        said.note("history goes on", next_of(&mut history).await);
        said.note("one", next_of(&mut one).await);
        c.put("b", "", None).await.expect("revision 4");
        let ops = [
            TxnOp::put("a/3", "", None),
            TxnOp::delete("a/2", None),
            TxnOp::put("b", "", None),
        ];
        c.txn(all(ops)).await.expect("revision 5");
        said.note("txn", next_of(&mut news).await);
        said.note("one", next_of(&mut one).await);
        said.note("the future is here", next_of(&mut future).await);
        said.note("only deletes", next_of(&mut deletes).await);
        said.note("only puts", next_of(&mut puts).await);
        said.note("only puts", next_of(&mut puts).await);
        let silence = timeout(Duration::from_millis(200), news.message()).await;
        said.note("silence", Ok(silence.is_err()));
    })
    .await;
    said.has("silence: true");
}

#[tokio::test]
async fn several_watches_on_one_stream_answer_alike() {
    both(async |mut c, said| {
        let options = || Some(WatchOptions::new());
        let with_id = |id| Some(WatchOptions::new().with_watch_id(id));
        let (mut ask, mut answers) = c.watch("a", with_id(7)).await.expect("a watch").split();
        said.note("chosen id", answers.message().await);
        let backwards = Some(WatchOptions::new().with_range("a"));
        let more = [
            ("given id", "a", options()),
            ("taken by choice", "b", with_id(1)),
            ("next given id", "c", options()),
            ("duplicate", "a", with_id(7)),
            ("empty range", "b", backwards),
        ];
        for (what, key, options) in more {
            ask.watch(key, options).await.expect("a request");
            said.note(what, answers.message().await);
        }
        c.put("b", "", None).await.expect("a put");
        said.note("event", answers.message().await);
        ask.cancel(1).await.expect("a request");
        said.note("cancelled", answers.message().await);
        ask.cancel(99).await.expect("a request");
        ask.request_progress().await.expect("a request");
        said.note("progress", answers.message().await);
        c.put("b", "", None).await.expect("a put");
        c.put("c", "", None).await.expect("a put");
        said.note("only the living", answers.message().await);
    })
    .await;
}

#[tokio::test]
async fn compaction_ends_watches_alike() {
    let said = both(async |mut c, said| {
        for value in ["1", "2", "3"] {
            c.put("a", value, None).await.expect("a put");
        }
        c.compact(3, None).await.expect("a compaction");
        let from = |revision| WatchOptions::new().with_start_revision(revision);
        for revision in [1, 2] {
            let mut late = watch(&mut c, "a", from(revision)).await;
            said.note("created", late.message().await);
            said.note("compacted", late.message().await);
        }
        let mut just = watch(&mut c, "a", from(3)).await;
        said.note("created", just.message().await);
        said.note("just in time", next_of(&mut just).await);
    })
    .await;
    said.has("compact_revision: 3");
}

/// What a reader compares after a lost connection.
#[tokio::test]
async fn reads_of_the_past_answer_alike() {
    let said = both(async |mut c, said| {
        c.lease_grant(60, id(5)).await.expect("a lease");
        for key in ["s/a", "s/b", "s/c"] {
            c.put(key, "1", under(5)).await.expect("a put");
        }
        c.delete("s/b", None).await.expect("a deletion");
        c.put("s/a", "2", None).await.expect("a put");
        c.compact(4, None).await.expect("a compaction");
        for revision in [3, 4, 5, 6, 7] {
            let at = || GetOptions::new().with_revision(revision);
            let by_value = at()
                .with_keys_only()
                .with_sort(SortTarget::Value, SortOrder::Ascend);
            let count = at().with_prefix().with_count_only();
            let sample = all([
                TxnOp::get("s/a", Some(by_value.clone())),
                TxnOp::get("s/b", Some(by_value)),
                TxnOp::get("s/", Some(count)),
            ]);
            said.note(&format!("a sample at {revision}"), c.txn(sample).await);
            let page = at().with_prefix().with_limit(2);
            said.note(
                &format!("a page at {revision}"),
                c.get("s/", Some(page)).await,
            );
        }
    })
    .await;
    said.has("required revision has been compacted");
    said.has("required revision is a future revision");
}

#[tokio::test]
async fn tokens_are_refused_alike() {
    let as_root = |password| Some(ConnectOptions::new().with_user("root", password));
    let mut real = Transcript::default();
    let etcd = Etcd::start_with(&[]).await;
    let mut admin = etcd.client().await;
    let version = version(&mut admin).await;
    admin.user_add("root", "old", None).await.expect("a user");
    admin.user_grant_role("root", "root").await.expect("a role");
    admin.auth_enable().await.expect("auth");
    let connect = |password| Client::connect([etcd.endpoint()], as_root(password));
    let wrong = connect("wrong").await.map(|_| ());
    real.note("wrong password", wrong);
    let mut stale = connect("old").await.expect("a token");
    // A new password voids the tokens of the old one.
    let changed = stale.user_change_password("root", "new").await;
    changed.expect("a new password");
    refused(stale, etcd.client().await, &mut real).await;

    let mut fake = Transcript::default();
    let etcd = FakeEtcd::new();
    // Before the fixes of CVE-2026-33413, etcd did not check the token of renewals.
    if !is_since(version, [42, 28, 9]) {
        etcd.configure(|it| it.lenient_leases = true);
    }
    etcd.user("root", "old");
    let wrong = client_of(&etcd, as_root("wrong")).await.map(|_| ());
    fake.note("wrong password", wrong);
    let stale = client_of(&etcd, as_root("old")).await.expect("a token");
    etcd.user("root", "new");
    let without = client_of(&etcd, None).await.expect("a client");
    refused(stale, without, &mut fake).await;
    compare(&real, &fake);
    real.has("get: Unauthenticated: etcdserver: invalid auth token");
}

async fn refused(mut stale: Client, mut without: Client, said: &mut Transcript) {
    said.note("get", stale.get("a", None).await);
    said.note("put", stale.put("a", "", None).await);
    said.note("txn", stale.txn(all([TxnOp::get("a", None)])).await);
    said.note("grant", stale.lease_grant(5, id(1)).await);
    said.note("revoke", stale.lease_revoke(1).await);
    said.note("renew", stale.lease_keep_alive(1).await.map(|_| ()));
    said.note("ttl", stale.lease_time_to_live(1, None).await);
    let mut watch = watch(&mut stale, "a", WatchOptions::new()).await;
    said.note("watch", watch.message().await);
    said.note("get without", without.get("a", None).await);
    said.note("put without", without.put("a", "", None).await);
    said.note("grant without", without.lease_grant(5, id(1)).await);
    said.note("revoke without", without.lease_revoke(1).await);
}

/// Sends requests to a real etcd and to a fake one, compares the answers, and returns them.
async fn both(ask: impl AsyncFn(Client, &mut Transcript)) -> Transcript {
    let etcd = Etcd::start_with(&[]).await;
    let mut real = Transcript::default();
    ask(etcd.client().await, &mut real).await;

    let version = version(&mut etcd.client().await).await;
    let etcd = FakeEtcd::new();
    // Up to then, ranges with `keys_only` carry leases.
    if version < [3, 7, 0] {
        etcd.configure(|it| it.keys_only_with_lease = true);
    }
    let mut fake = Transcript::default();
    let client = client_of(&etcd, None).await.expect("a client");
    ask(client, &mut fake).await;

    compare(&real, &fake);
    real
}

async fn client_of(etcd: &FakeEtcd, options: Option<ConnectOptions>) -> Result<Client, Error> {
    Client::from_channel(Channel::Tonic(etcd.channel("m")), options).await
}

fn id(id: i64) -> Option<LeaseGrantOptions> {
    Some(LeaseGrantOptions::new().with_id(id))
}

fn under(lease: i64) -> Option<PutOptions> {
    Some(PutOptions::new().with_lease(lease))
}

/// A transaction without conditions.
fn all(ops: impl Into<Vec<TxnOp>>) -> Txn {
    Txn::new().and_then(ops)
}

fn compare(real: &Transcript, fake: &Transcript) {
    let pairs = real.0.iter().zip(&fake.0);
    let differences: Vec<_> = pairs
        .filter(|(real, fake)| real != fake)
        .map(|(real, fake)| format!("etcd: {real}\nfake: {fake}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert_eq!(real.0.len(), fake.0.len(), "one of them said more");
}

impl Transcript {
    /// Records an answer, without its origin.
    fn note<T: Debug>(&mut self, question: &str, answer: Result<T, Error>) {
        let answer = match answer {
            Ok(answer) => format!("{answer:?}"),
            Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(other) => other.to_string(),
        };
        let answer = ["cluster_id: ", "member_id: ", "raft_term: "]
            .into_iter()
            .fold(answer, |text, field| without_number(&text, field));
        self.0.push(format!("{question}: {answer}"));
    }

    /// Asserts that the answers of etcd have this line, literally.
    fn has(&self, line: &str) {
        let found = self.0.iter().any(|said| said.contains(line));
        assert!(
            found,
            "etcd did not say `{line}` but\n{}",
            self.0.join("\n")
        );
    }
}

/// The text with the number after each `field` left out.
fn without_number(text: &str, field: &str) -> String {
    let mut parts = text.split(field);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |done, part| {
        done + field + "_" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

async fn watch(client: &mut Client, key: &str, options: WatchOptions) -> WatchStream {
    let watch = client.watch(key, Some(options)).await;
    watch.expect("a watch stream")
}

/// A watch whose acknowledgement has been read.
async fn open(client: &mut Client, key: &str, options: WatchOptions) -> WatchStream {
    let mut stream = watch(client, key, options).await;
    let created = stream.message().await.expect("an answer");
    assert!(created.is_some_and(|c| c.created()), "not created");
    stream
}

/// The events of the next message. Its header may say a later revision than they have, so it is left out.
async fn next_of(stream: &mut WatchStream) -> Result<String, Error> {
    let message = timeout(Duration::from_secs(5), stream.message()).await;
    let message = message.expect("an event within five seconds")?;
    Ok(message.map_or_else(|| "the end".to_owned(), |m| format!("{:?}", m.events())))
}
