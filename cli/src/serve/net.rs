//! Sockets. A client that is slow, silent or greedy costs one connection out of a fixed number, for a fixed time.

use super::{api, app::App, guard, pages};
use anyhow::Result;
use axum::{Router, extract::DefaultBodyLimit, middleware};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Requests that read the store at a time.
pub const MAX_AT_ONCE: usize = 16;
/// How long a client may take to send the head of a request, also between two on one connection.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// Largest head of a request.
const MAX_HEAD: usize = 32 << 10;
/// Largest body: a long explanation is a few thousand bytes.
pub const MAX_BODY: usize = 256 << 10;

/// All addresses.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(pages::routes())
        .merge(api::routes())
        .fallback(pages::nothing_here)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

/// Accepts connections for ever.
pub async fn run(listener: std::net::TcpListener, app: Arc<App>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = TowerToHyperService::new(router(app));
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of file descriptors or a client that left already: the next one may fare better.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Pages are small and answered at once; waiting to fill packets only delays them.
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
            // A client that breaks off is its own business.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}
