//! `lm-saes serve`: pages and a JSON API over a store, from this binary alone. Pages are written on the server (`pages/`), small
//! modules of our own (`assets/`) add what needs a hand; nothing is fetched from elsewhere.
//!
//! ```text
//! net     sockets: how many, how long, how large          guard   who may ask what; headers on every answer
//! app     what handlers share: store, caches, addresses   live    the thread with the language model
//! pages   HTML                                            api     JSON, and every change
//! ```
//! Localhost answers only to its own names, so that another site cannot reach it by renaming itself; every change is a POST of
//! JSON from our own pages or a script, with the token where there is one.

mod api;
mod app;
mod failure;
mod guard;
mod html;
mod live;
mod net;
mod pages;
mod runs;
mod url;

use anyhow::{Context as _, Result};
use app::App;
use lm_saes::store::Store;
use lm_saes_runtime::Registry;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

/// How to serve.
#[derive(Debug)]
pub struct Options {
    /// Where to listen.
    pub host: IpAddr,
    /// On which port; 0 takes a free one.
    pub port: u16,
    /// What changes have to show. Made up where one is needed and none given.
    pub token: Option<String>,
    /// Where training runs write.
    pub runs: Option<PathBuf>,
    /// Device of live inference.
    pub device: String,
    /// Language model of live inference, instead of the one each analysis was made with.
    pub model: Option<PathBuf>,
}

/// Serves until the process ends. `ready` is told the address and the token once connections are accepted.
pub fn serve(
    store: Box<dyn Store>,
    registry: &Registry,
    options: Options,
    ready: impl FnOnce(SocketAddr, Option<&str>),
) -> Result<()> {
    let address = SocketAddr::new(options.host, options.port);
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}; name another port with --port, or --port 0 for a free one")
    })?;
    let bound = listener.local_addr()?;
    let token = match options.token {
        None if !options.host.is_loopback() => Some(app::random_token()?),
        given => given,
    };
    let (live, questions) = live::channel();
    let app = Arc::new(App::new(store, options.runs, token, options.host.is_loopback(), live));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(net::MAX_AT_ONCE)
        .enable_io()
        .enable_time()
        .build()?;
    std::thread::scope(|scope| {
        scope.spawn(|| live::answer(registry, &options.device, options.model.as_deref(), questions));
        ready(bound, app.token.as_deref());
        runtime.block_on(net::run(listener, app))
    })
}
