//! Where the ranks of a communicator meet: a thread of the process that gave the root, reached through a Unix socket without a file.
//! Every collective passes through it, so that ranks which state different things, or do not come, are known by name; hardware
//! would hang.

use std::{
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How an exchange ended for one rank.
pub enum Reply {
    /// What every rank sent.
    All(Vec<Vec<u8>>),
    /// The ranks do not agree.
    Wrong(String),
    /// Ranks that did not take part.
    Absent(String),
}

/// What a rank states, and its bytes.
struct Message {
    deal: Vec<u8>,
    payload: Vec<u8>,
}

const OK: u8 = 0;
const WRONG: u8 = 1;
const ABSENT: u8 = 2;

fn write_frame(to: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&(bytes.len() as u64).to_ne_bytes())?;
    to.write_all(bytes)
}

fn read_frame(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut n = [0; 8];
    from.read_exact(&mut n)?;
    let mut bytes = vec![0; u64::from_ne_bytes(n) as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn name_of(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// A rank that has come.
struct Guest {
    end: UnixStream,
    device: i32,
    /// Of the process that the thread belongs to.
    own: bool,
}

/// Starts the thread where the ranks of the root `name` meet.
pub fn open(name: &str, patience: Duration) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&name_of(name)?)?;
    listener.set_nonblocking(true)?;
    thread::Builder::new().name("acl-sim-hccl".into()).spawn(move || serve(&listener, patience))?;
    Ok(())
}

fn serve(listener: &UnixListener, patience: Duration) {
    let Ok(mut ends) = gather(listener, patience) else { return };
    let (send, receive) = mpsc::channel();
    for (rank, guest) in ends.iter().enumerate() {
        let (Ok(mut end), send) = (guest.end.try_clone(), send.clone()) else { return };
        thread::spawn(move || {
            loop {
                let message = read_frame(&mut end)
                    .and_then(|deal| Ok(Message { deal, payload: read_frame(&mut end)? }))
                    .ok();
                let last = message.is_none();
                if send.send((rank, message)).is_err() || last {
                    return;
                }
            }
        });
    }
    drop(send);
    let mut left = vec![false; ends.len()];
    while round(&mut ends, &receive, &mut left, patience) {}
}

/// The ranks, once all have come; told to those who came where some have not.
fn gather(listener: &UnixListener, patience: Duration) -> io::Result<Vec<Guest>> {
    let begun = Instant::now();
    let mut ends: Vec<Option<Guest>> = Vec::new();
    loop {
        let (end, hello) = match listener.accept() {
            Ok((mut end, _)) => {
                end.set_nonblocking(false)?;
                let hello = read_frame(&mut end)?;
                (end, hello)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if begun.elapsed() > patience {
                    let absent: Vec<_> = (0..ends.len()).filter(|&r| ends[r].is_none()).collect();
                    let text = format!("ranks {absent:?} of {} did not come", ends.len());
                    answer_all(ends.iter_mut().flatten(), ABSENT, &[text.as_bytes()]);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(e) => return Err(e),
        };
        let number = |i: usize| <[u8; 4]>::try_from(&hello[4 * i..4 * i + 4]).map_or(0, i32::from_ne_bytes);
        let (rank, n) = (number(0) as usize, number(1) as usize);
        let mut guest = Guest { end, device: number(2), own: number(3) as u32 == std::process::id() };
        if ends.is_empty() {
            ends.resize_with(n, || None);
        }
        let same = ends.iter().position(|e| e.as_ref().is_some_and(|g| g.device == guest.device));
        let wrong = if n != ends.len() {
            Some(format!("rank {rank} says there are {n} ranks, another said {}", ends.len()))
        } else if ends[rank].is_some() {
            Some(format!("two processes say they are rank {rank}"))
        } else {
            same.map(|other| format!("ranks {other} and {rank} are both on device {}", guest.device))
        };
        if let Some(text) = wrong {
            answer_all(ends.iter_mut().flatten().chain([&mut guest]), WRONG, &[text.as_bytes()]);
            return Err(io::ErrorKind::InvalidInput.into());
        }
        ends[rank] = Some(guest);
        if ends.iter().all(Option::is_some) {
            let mut all: Vec<Guest> = ends.into_iter().flatten().collect();
            answer_all(all.iter_mut(), OK, &[]);
            return Ok(all);
        }
    }
}

/// Answers every guest, that of this process last: it may end with what it hears, and the others' answers with it.
fn answer_all<'a>(guests: impl Iterator<Item = &'a mut Guest>, status: u8, frames: &[&[u8]]) {
    let (own, others): (Vec<_>, Vec<_>) = guests.partition(|g| g.own);
    for guest in others.into_iter().chain(own) {
        // A rank that has ended meanwhile is seen as one that left.
        let _ = answer(&mut guest.end, status, frames);
    }
}

fn answer(end: &mut UnixStream, status: u8, frames: &[&[u8]]) -> io::Result<()> {
    end.write_all(&[status])?;
    end.write_all(&(frames.len() as u64).to_ne_bytes())?;
    frames.iter().try_for_each(|f| write_frame(end, f))
}

/// One collective; false once all ranks have left.
fn round(
    ends: &mut [Guest],
    receive: &Receiver<(usize, Option<Message>)>,
    left: &mut [bool],
    patience: Duration,
) -> bool {
    let mut stated: Vec<Option<Message>> = ends.iter().map(|_| None).collect();
    let mut until = None;
    let why = loop {
        let got = match until {
            None => receive.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => receive.recv_timeout(Instant::duration_since(&until, Instant::now())),
        };
        match got {
            Ok((rank, Some(message))) => {
                stated[rank] = Some(message);
                until.get_or_insert(Instant::now() + patience);
            }
            Ok((rank, None)) => left[rank] = true,
            Err(RecvTimeoutError::Timeout) => break "did not take part in time",
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        if stated.iter().all(Option::is_some) {
            break "";
        }
        if left.contains(&true) && stated.iter().any(Option::is_some) {
            break "destroyed the communicator or ended";
        }
    };
    let mut tell = |status, frames: &[&[u8]]| {
        let waiting = ends.iter_mut().zip(&stated).filter(|(_, s)| s.is_some());
        answer_all(waiting.map(|(guest, _)| guest), status, frames);
    };
    if !why.is_empty() {
        let is_absent = |&r: &usize| if left.contains(&true) { left[r] } else { stated[r].is_none() };
        let absent: Vec<_> = (0..stated.len()).filter(is_absent).map(|r| r.to_string()).collect();
        tell(ABSENT, &[format!("remote rank {} {why}", absent.join(", ")).as_bytes()]);
        return true;
    }
    let all: Vec<&Message> = stated.iter().flatten().collect();
    if let Some(r) = all.iter().position(|m| m.deal != all[0].deal) {
        let deal = |r: usize| String::from_utf8_lossy(&all[r].deal);
        tell(WRONG, &[format!("rank 0 states {} and rank {r} {}", deal(0), deal(r)).as_bytes()]);
        return true;
    }
    let frames: Vec<&[u8]> = all.iter().map(|m| m.payload.as_slice()).collect();
    tell(OK, &frames);
    true
}

/// One rank's end.
pub struct End(UnixStream);

impl End {
    /// Comes to the root `name` and waits for all others.
    pub fn join(name: &str, rank: u32, n: u32, device: i32) -> Result<Self, Reply> {
        let gone = |e: io::Error| Reply::Absent(format!("the root's process cannot be reached: {e}"));
        let mut end = name_of(name).and_then(|a| UnixStream::connect_addr(&a)).map_err(gone)?;
        let hello =
            [rank.to_ne_bytes(), n.to_ne_bytes(), device.to_ne_bytes(), std::process::id().to_ne_bytes()]
                .concat();
        write_frame(&mut end, &hello).map_err(gone)?;
        let mut end = Self(end);
        match end.reply() {
            Reply::All(_) => Ok(end),
            other => Err(other),
        }
    }

    /// States a collective and waits for what everybody sent.
    pub fn exchange(&mut self, deal: &str, payload: &[u8]) -> Reply {
        let sent = write_frame(&mut self.0, deal.as_bytes()).and_then(|()| write_frame(&mut self.0, payload));
        match sent {
            Ok(()) => self.reply(),
            Err(e) => Reply::Absent(format!("the root's process has ended: {e}")),
        }
    }

    fn reply(&mut self) -> Reply {
        let read = |end: &mut UnixStream| -> io::Result<(u8, Vec<Vec<u8>>)> {
            let (mut status, mut n) = ([0], [0; 8]);
            end.read_exact(&mut status)?;
            end.read_exact(&mut n)?;
            let frames = (0..u64::from_ne_bytes(n)).map(|_| read_frame(end)).collect::<io::Result<_>>()?;
            Ok((status[0], frames))
        };
        match read(&mut self.0) {
            Ok((OK, frames)) => Reply::All(frames),
            Ok((status, frames)) => {
                let text = String::from_utf8_lossy(&frames.concat()).into_owned();
                if status == WRONG { Reply::Wrong(text) } else { Reply::Absent(text) }
            }
            Err(e) => Reply::Absent(format!("the root's process has ended: {e}")),
        }
    }
}
