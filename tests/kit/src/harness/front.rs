//! A way in clear to a server that speaks TLS, for programs that do not trust the tests' authority: a TCP proxy that adds
//! the TLS.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    sync::Arc,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// Dropping it ends its connections.
pub struct Front {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Front {
    /// A way to the server at this address, whose certificate is for the address and by this authority (PEM).
    pub fn to(server: SocketAddr, authority: &str) -> Self {
        let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        listener.set_nonblocking(true).expect("it can be");
        let listener = TcpListener::from_std(listener).expect("the test has a runtime");
        let accepting = tokio::spawn(accept(listener, server, connector(authority)));
        Self { address, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client's TLS, which trusts this authority (PEM) only.
pub(super) fn connector(authority: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("it is a certificate");
    roots.add(root).expect("it is an authority's");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn accept(listener: TcpListener, server: SocketAddr, connector: TlsConnector) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let connector = connector.clone();
        connections.spawn(async move {
            let Ok(stream) = TcpStream::connect(server).await else { return };
            let Ok(mut stream) = connector.connect(ServerName::from(server.ip()), stream).await else {
                return;
            };
            // Either side may go at any time.
            let _ = copy_bidirectional(&mut client, &mut stream).await;
        });
    }
}
