//! An HTTP server for tests: answers as a closure says, slowly, wrongly or not at all where that is wanted.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number, from 0.
    pub n: usize,
    /// Method and path.
    pub line: String,
    /// Header fields by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What the server does with a request.
pub enum Act {
    /// Status, further header lines, body.
    Answer(u16, &'static str, String),
    /// The same after a pause.
    Slow(Duration, String),
    /// Status, further header lines, and a body of which only so many bytes are sent, then the end if that is not all.
    Bytes(u16, String, Vec<u8>, usize),
    /// Half of the body that was announced, then the end.
    CutOff(String),
    /// The end, without a word.
    HangUp,
}

/// The server; it ends with the process.
pub struct Stub {
    /// Its address, such as `http://127.0.0.1:4711`.
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    most: Arc<AtomicUsize>,
}

impl Stub {
    /// Starts one.
    pub fn new(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (asked, most) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let stub = Self { url, asked: asked.clone(), most: most.clone() };
        let (act, now) = (Arc::new(act), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (act, now, asked, most) = (act.clone(), now.clone(), asked.clone(), most.clone());
                thread::spawn(move || {
                    let _ = serve(stream, &*act, &now, &asked, &most);
                });
            }
        });
        stub
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most that were being answered at once.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    act: &dyn Fn(&Asked) -> Act,
    now: &AtomicUsize,
    asked: &Mutex<Vec<Asked>>,
    most: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(mut request) = read(&mut reader)? {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            request.n = asked.len();
            asked.push(request.clone());
        }
        let act = act(&request);
        let whole = |status, more: &str, body: String| {
            let length = body.len();
            (status, more.to_string(), body.into_bytes(), length)
        };
        let (status, more, body, sent) = match act {
            Act::Answer(status, more, body) => whole(status, more, body),
            Act::Slow(pause, body) => {
                thread::sleep(pause);
                whole(200, "", body)
            }
            Act::Bytes(status, more, body, sent) => {
                let sent = sent.min(body.len());
                (status, more, body, sent)
            }
            Act::CutOff(body) => (200, String::new(), body.clone().into_bytes(), body.len() / 2),
            Act::HangUp => (0, String::new(), Vec::new(), 0),
        };
        now.fetch_sub(1, Ordering::SeqCst);
        if status == 0 {
            return Ok(());
        }
        write!(stream, "HTTP/1.1 {status} as told\r\ncontent-length: {}\r\n{more}\r\n", body.len())?;
        if request.line.starts_with("HEAD ") {
            stream.flush()?;
            continue;
        }
        stream.write_all(&body[..sent])?;
        stream.flush()?;
        if sent < body.len() {
            return Ok(());
        }
    }
    Ok(())
}

fn read(from: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut field = String::new();
        if from.read_line(&mut field)? == 0 || field.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = field.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(Asked { n: 0, line: line.trim().into(), headers, body }))
}
