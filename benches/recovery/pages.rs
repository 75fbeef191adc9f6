//! How long the introspection service takes for each page of the registrations of a registrar.

use test_support::server::ms;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_etcd::Registrar;
use tonic_etcd::introspection::Introspection;
use tonic_etcd::introspection::pb::introspection_client::IntrospectionClient;
use tonic_etcd::introspection::pb::{ListRequest, RegistrationState};

/// Milliseconds from the call to the last byte on loopback, for each page of 1,000. All must be registered.
pub async fn all(registrar: &Registrar) -> Vec<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Introspection::builder().registrar(registrar).build();
    let server = Server::builder().add_service(service);
    // Otherwise the client's delayed acknowledgement would be measured: 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    let client = IntrospectionClient::connect(format!("http://{address}"));
    let mut client = client.await.unwrap();
    let (mut took, mut page_token) = (vec![], String::new());
    loop {
        let request = ListRequest {
            page_size: 1000,
            page_token,
            ..ListRequest::default()
        };
        let start = Instant::now();
        let page = client.list(request).await.unwrap().into_inner();
        took.push(ms(start, Instant::now()));
        let mut states = page.registrations.iter().map(|it| it.state());
        assert!(states.all(|state| state == RegistrationState::Registered));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    server.abort();
    took
}
