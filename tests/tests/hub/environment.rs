//! What the environment says about the hub, seen from processes of their own: Python's variables mean here what they mean there.

use lm_saes::hub::Hub;
use lm_saes_tests::stub::{Act, Stub};
use std::{env, fs, path::Path, process::Command};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Tells a child of another test what to do.
const CHILD: &str = "LM_SAES_HUB_CHILD";

/// Nothing, unless this process is the child of another test: then a file is found, and where it is goes to standard output.
#[test]
fn environment_child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    match Hub::from_env().find("org/repo", "main", "config.json") {
        Ok(path) => println!("found {}", path.unwrap().display()),
        Err(e) => println!("failed {e}"),
    }
}

/// A process with these variables and no others of the hub's.
fn child(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "environment::environment_child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1");
    for (name, _) in env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("HF_") || known.starts_with("HUGGING") || known == "XDG_CACHE_HOME" {
            command.env_remove(&name);
        }
    }
    let out = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said =
        text.lines().find_map(|l| l.find("found ").or(l.find("failed ")).map(|at| l[at..].to_string()));
    said.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)))
}

/// A hub with one file, which says what token it was asked with.
fn hub() -> Stub {
    Stub::new(|_| {
        let head = format!("etag: \"0a0b\"\r\nx-repo-commit: {COMMIT}\r\n");
        Act::Bytes(200, head, b"{}".to_vec(), 2)
    })
}

fn token(stub: &Stub) -> Option<String> {
    stub.asked().last().unwrap().headers.get("authorization").cloned()
}

fn snapshot(cache: &Path) -> String {
    format!("found {}", cache.join("models--org--repo/snapshots").join(COMMIT).join("config.json").display())
}

#[test]
fn home_cache_endpoint_and_token_come_from_the_variables_of_pythons_library() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (home, cache, file) = (at("home"), at("cache"), at("secret"));
    fs::create_dir_all(&home).unwrap();
    fs::write(Path::new(&home).join("token"), "of-the-home\n").unwrap();
    fs::write(&file, "of-a-file").unwrap();
    let stub = hub();
    let endpoint = ("HF_ENDPOINT", stub.url.as_str());
    // The home's own folder and token.
    assert_eq!(child(&[endpoint, ("HF_HOME", &home)]), snapshot(&Path::new(&home).join("hub")));
    assert_eq!(token(&stub).as_deref(), Some("Bearer of-the-home"));
    // Each may be elsewhere; a token in a variable goes before one in a file.
    let elsewhere =
        [endpoint, ("HF_HOME", home.as_str()), ("HF_HUB_CACHE", &cache), ("HF_TOKEN_PATH", &file)];
    assert_eq!(child(&elsewhere), snapshot(Path::new(&cache)));
    assert_eq!(token(&stub).as_deref(), Some("Bearer of-a-file"));
    child(&[&elsewhere[..], &[("HF_TOKEN", "given")]].concat());
    assert_eq!(token(&stub).as_deref(), Some("Bearer given"));
    // Without any of them, below the user's home.
    assert_eq!(
        child(&[endpoint, ("HOME", &home)]),
        snapshot(&Path::new(&home).join(".cache/huggingface/hub"))
    );
    assert_eq!(token(&stub), None);
    assert_eq!(
        child(&[endpoint, ("XDG_CACHE_HOME", &cache)]),
        snapshot(&Path::new(&cache).join("huggingface/hub"))
    );
}

#[test]
fn offline_nothing_is_asked_and_what_was_fetched_serves() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_string_lossy().into_owned();
    let stub = hub();
    let variables = [("HF_ENDPOINT", stub.url.as_str()), ("HF_HOME", home.as_str())];
    let offline = |value| child(&[&variables[..], &[("HF_HUB_OFFLINE", value)]].concat());
    let said = offline("1");
    assert!(
        said.starts_with("failed") && said.contains("HF_HUB_OFFLINE") && stub.asked().is_empty(),
        "{said}"
    );
    let found = child(&variables);
    let asked = stub.asked().len();
    for value in ["1", "true", "YES", "on"] {
        assert_eq!(offline(value), found);
    }
    assert_eq!(stub.asked().len(), asked, "nothing was asked while offline");
    assert_eq!(offline("0"), found);
    assert!(stub.asked().len() > asked);
}
