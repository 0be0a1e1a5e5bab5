//! `lm-saes serve`: a store in the browser.

use super::list;
use crate::{
    args::Serve,
    serve::{self, Options},
};
use anyhow::{Context, Result, bail};
use lm_saes_runtime::Registry;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

pub fn run(args: &Serve, registry: &Registry) -> Result<()> {
    let store = list::open(&args.store)?;
    if let Some(runs) = args.runs.as_ref().filter(|r| !r.is_dir()) {
        bail!("{}: there is no such folder of training runs", runs.display());
    }
    let options = Options {
        host: resolve(&args.host)?,
        port: args.port,
        token: args.token.clone().filter(|t| !t.trim().is_empty()),
        runs: args.runs.clone(),
        device: args.device.clone(),
        model: args.model.clone(),
    };
    start(store, registry, options, &args.store)
}

/// Serves until the process ends, having said where.
pub fn start(
    store: Box<dyn lm_saes::store::Store>,
    registry: &Registry,
    options: Options,
    name: &str,
) -> Result<()> {
    serve::serve(store, registry, options, |address, token| announce(address, token, name))
}

fn announce(address: SocketAddr, token: Option<&str>, store: &str) {
    println!("serving {store} on http://{address}/ (Ctrl-C stops)");
    if address.ip().is_unspecified() {
        println!("reachable from other machines: anyone who gets there can read");
    }
    if let Some(token) = token {
        println!("changes need the token {token}");
    }
}

/// The address of a host by name or number.
fn resolve(host: &str) -> Result<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let found =
        (host, 0).to_socket_addrs().with_context(|| format!("--host {host:?} is no address of this machine"));
    let found = found?.map(|a| a.ip()).next();
    found.with_context(|| format!("--host {host:?} is no address of this machine"))
}
