//! Ranks that are processes connected by TCP, without MPI: started by torchrun, by `srun`, or by hand. Rank 0 listens where everybody
//! knows to look; there they tell each other where they listen, and every two of them keep one connection. Each connection has a
//! thread that takes in whatever comes, so that no two ranks can wait for each other to read.

use super::wire::{Wire, Wired};
use lm_saes_runtime::{Comm, Error, Result};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// First words on a connection: what this is, and in which version.
const HELLO: u64 = u64::from_le_bytes(*b"lmsaes01");
/// Pause between attempts to reach a rank that does not listen yet.
const PAUSE: Duration = Duration::from_millis(50);
/// A message longer than this did not come from one of us.
const MOST: u64 = 1 << 40;

/// This process's place in a job of processes connected by TCP. When it is dropped the others find it gone.
pub struct Tcp {
    engine: Arc<Engine>,
    rank: usize,
    size: usize,
}

struct Engine {
    /// To every other rank, by rank.
    peers: Vec<Option<Peer>>,
    inbox: Arc<Inbox>,
    patience: Duration,
}

struct Peer {
    /// For writing, one message at a time.
    stream: Mutex<TcpStream>,
}

/// What has arrived and was not asked for yet, by sender and tag.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    messages: HashMap<(usize, u32), VecDeque<Vec<u8>>>,
    /// Ranks whose connection has ended, and how.
    gone: HashMap<usize, String>,
}

impl Tcp {
    /// Joins the job whose rank 0 listens at `address`, `host:port`.
    ///
    /// # Errors
    /// A rank that is not there within `patience`, an address that cannot be listened at, or somebody else who listens there.
    pub fn join(address: &str, rank: usize, size: usize, patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        let streams = meet(address, rank, size, until)?;
        let inbox = Arc::new(Inbox::default());
        let mut peers = Vec::with_capacity(size);
        for (from, stream) in streams.into_iter().enumerate() {
            peers.push(match stream {
                Some(stream) => {
                    let _ = stream.set_nodelay(true);
                    let (reader, inbox) =
                        (stream.try_clone().map_err(io("TcpStream::try_clone"))?, inbox.clone());
                    let read = move || take_in(reader, from, &inbox);
                    thread::Builder::new()
                        .name(format!("from rank {from}"))
                        .spawn(read)
                        .map_err(io("spawn"))?;
                    Some(Peer { stream: Mutex::new(stream) })
                }
                None => None,
            });
        }
        Ok(Self { engine: Arc::new(Engine { peers, inbox, patience }), rank, size })
    }

    /// This rank.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// All ranks.
    pub fn world(&self) -> Box<dyn Comm> {
        Box::new(Wired::world(self.engine.clone(), self.rank, self.size))
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Who still waits for this rank is told, after what it was sent; the threads that read end when the others do the same.
        for peer in self.engine.peers.iter().flatten() {
            let _ = lock(&peer.stream).shutdown(Shutdown::Write);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(call: &'static str, text: String) -> Error {
    Error::Driver { device: "tcp".into(), call, code: 0, text }
}

fn io(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |e| failed(call, e.to_string())
}

/// Connections to all other ranks, by rank.
fn meet(address: &str, rank: usize, size: usize, until: Instant) -> Result<Vec<Option<TcpStream>>> {
    let mut streams: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    if rank == 0 {
        let listener = TcpListener::bind(address).map_err(|e| {
            failed("bind", format!("rank 0 cannot listen at {address} (MASTER_ADDR, MASTER_PORT): {e}"))
        })?;
        // Where every rank listens, as seen from here; then everybody is told of all.
        let mut places = vec![String::new(); size];
        for _ in 1..size {
            let (mut stream, from, port) = answer(&listener, &streams, until)?;
            let host = stream.peer_addr().map_err(io("getpeername"))?.ip();
            places[from] = SocketAddr::new(host, port).to_string();
            stream.write_all(&0_u64.to_le_bytes()).map_err(io("write"))?;
            streams[from] = Some(stream);
        }
        let told = places.join("\n");
        for stream in streams.iter_mut().flatten() {
            send(stream, 0, told.as_bytes()).map_err(io("write"))?;
        }
        return Ok(streams);
    }
    let mut first = reach(address, 0, until)?;
    // Listens where rank 0 is reached from, so that the others can reach it likewise.
    let own: IpAddr = first.local_addr().map_err(io("getsockname"))?.ip();
    let listener = TcpListener::bind((own, 0)).map_err(io("bind"))?;
    let port = listener.local_addr().map_err(io("getsockname"))?.port();
    introduce(&mut first, rank, size, port, until)?;
    first.set_read_timeout(Some(left(until))).map_err(io("setsockopt"))?;
    let told = receive(&mut first).map_err(|e| {
        failed("rendezvous", format!("not all {size} ranks have come, or rank 0 has ended ({e})"))
    })?;
    first.set_read_timeout(None).map_err(io("setsockopt"))?;
    streams[0] = Some(first);
    let places = String::from_utf8_lossy(&told.1).into_owned();
    let places: Vec<&str> = places.split('\n').collect();
    // Lower ranks are called, higher ones call.
    for (other, place) in places.iter().enumerate().take(rank).skip(1) {
        let mut stream = reach(place, other, until)?;
        introduce(&mut stream, rank, size, 0, until)?;
        streams[other] = Some(stream);
    }
    for _ in rank + 1..size {
        let (mut stream, from, _) = answer(&listener, &streams, until)?;
        stream.write_all(&0_u64.to_le_bytes()).map_err(io("write"))?;
        streams[from] = Some(stream);
    }
    Ok(streams)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// A connection to a rank, as soon as it listens.
fn reach(address: &str, rank: usize, until: Instant) -> Result<TcpStream> {
    loop {
        let tried = address.to_socket_addrs().and_then(|all| {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for one in all {
                match TcpStream::connect_timeout(&one, left(until)) {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        });
        match tried {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() + PAUSE >= until => {
                return Err(failed("connect", format!("rank {rank} does not listen at {address}: {e}")));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Says who calls; the answer says whether that is right.
fn introduce(stream: &mut TcpStream, rank: usize, size: usize, port: u16, until: Instant) -> Result<()> {
    let words = [HELLO, rank as u64, size as u64, u64::from(port)];
    stream.write_all(&words.map(u64::to_le_bytes).concat()).map_err(io("write"))?;
    stream.set_read_timeout(Some(left(until))).map_err(io("setsockopt"))?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).map_err(|e| {
        failed("rendezvous", format!("rank {rank} was turned away: another job may listen there ({e})"))
    })?;
    stream.set_read_timeout(None).map_err(io("setsockopt"))
}

/// The next rank that calls, and the port it listens at.
fn answer(
    listener: &TcpListener,
    known: &[Option<TcpStream>],
    until: Instant,
) -> Result<(TcpStream, usize, u16)> {
    listener.set_nonblocking(true).map_err(io("fcntl"))?;
    let size = known.len();
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(PAUSE / 5);
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let came = known.iter().flatten().count() + 1;
                return Err(failed("rendezvous", format!("{came} of {size} ranks have come in time")));
            }
            Err(e) => return Err(io("accept")(e)),
        };
        stream.set_nonblocking(false).map_err(io("fcntl"))?;
        // Somebody who says nothing must not keep the others waiting for long.
        stream.set_read_timeout(Some(left(until).min(Duration::from_secs(5)))).map_err(io("setsockopt"))?;
        let mut words = [0; 32];
        if stream.read_exact(&mut words).is_err() {
            continue;
        }
        let word = |i: usize| words[8 * i..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        let (rank, of) = (word(1) as usize, word(2) as usize);
        if word(0) != HELLO {
            continue;
        }
        if of != size || rank >= size || known[rank].is_some() {
            let what = format!("a process that says it is rank {rank} of {of} came to a job of {size} ranks");
            return Err(failed(
                "rendezvous",
                format!("{what}, or came twice; is MASTER_PORT another job's?"),
            ));
        }
        stream.set_read_timeout(None).map_err(io("setsockopt"))?;
        return Ok((stream, rank, word(3) as u16));
    }
}

fn send(stream: &mut TcpStream, tag: u32, bytes: &[u8]) -> io::Result<()> {
    let head = [u64::from(tag), bytes.len() as u64].map(u64::to_le_bytes).concat();
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

fn receive(stream: &mut TcpStream) -> io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let word = |i: usize| head[8 * i..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
    if word(0) > u64::from(u32::MAX) || word(1) > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of this program"));
    }
    let mut bytes = vec![0; word(1) as usize];
    stream.read_exact(&mut bytes)?;
    Ok((word(0) as u32, bytes))
}

/// Puts what comes from a rank into the inbox until the connection ends.
fn take_in(mut stream: TcpStream, from: usize, inbox: &Inbox) {
    loop {
        let came = receive(&mut stream);
        let mut state = lock(&inbox.state);
        let ended = came.is_err();
        match came {
            Ok((tag, bytes)) => state.messages.entry((from, tag)).or_default().push_back(bytes),
            Err(e) => drop(state.gone.insert(from, e.to_string())),
        }
        inbox.came.notify_all();
        if ended {
            return;
        }
    }
}

impl Wire for Engine {
    fn exchange(
        &self,
        tag: u32,
        outgoing: &[(usize, &[u8])],
        incoming: &mut [(usize, &mut [u8])],
        what: &'static str,
    ) -> Result<(), String> {
        let until = Instant::now() + self.patience;
        for (to, bytes) in outgoing {
            let peer = self.peers.get(*to).and_then(Option::as_ref).ok_or("a message to itself")?;
            let mut stream = lock(&peer.stream);
            let _ = stream.set_write_timeout(Some(self.patience));
            send(&mut stream, tag, bytes).map_err(|e| self.ended(*to, what, &e.to_string()))?;
        }
        for (from, to) in incoming {
            let bytes = self.next(*from, tag, until, what)?;
            if bytes.len() != to.len() {
                let (got, want) = (bytes.len(), to.len());
                return Err(format!("rank {from} sent {got} bytes for {what} where {want} were expected"));
            }
            to.copy_from_slice(&bytes);
        }
        Ok(())
    }
}

impl Engine {
    fn next(&self, from: usize, tag: u32, until: Instant, what: &str) -> Result<Vec<u8>, String> {
        let mut state = lock(&self.inbox.state);
        loop {
            if let Some(bytes) = state.messages.get_mut(&(from, tag)).and_then(VecDeque::pop_front) {
                return Ok(bytes);
            }
            if let Some(why) = state.gone.get(&from) {
                return Err(format!("rank {from} has left the job ({why})"));
            }
            let now = Instant::now();
            if now >= until {
                let seconds = self.patience.as_secs_f64();
                return Err(format!("rank {from} did not take part in {what} within {seconds} s"));
            }
            state =
                self.inbox.came.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ended(&self, rank: usize, what: &str, why: &str) -> String {
        match lock(&self.inbox.state).gone.contains_key(&rank) {
            true => format!("rank {rank} has left the job ({why})"),
            false => format!("rank {rank} does not take what it is sent for {what} ({why})"),
        }
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
