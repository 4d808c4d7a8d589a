//! The HTTP server.

use std::convert::Infallible;

use http::{Method, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::net::TcpListener;

use crate::{config::Config, database::Database, master_key::MasterKey};

pub async fn run(
    config: Config,
    _database: Database,
    _master_key: MasterKey,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await?;
    println!("postern: serving {} at http://{}", config.domain, listener.local_addr()?);
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let known = request.method() == Method::GET && request.uri().path() == "/health";
                    let mut response = Response::new(String::new());
                    *response.status_mut() = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
                    Ok::<_, Infallible>(response)
                });
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    Ok(())
}
