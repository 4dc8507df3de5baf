//! One file over HTTP: gone on with where it stopped, and checked.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Bytes;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use sha2::{Digest, Sha256};
use url::Url;

use super::{Place, Progress, Wanted, hex, of_io};
use crate::http::causes::causes;
use crate::http::client::{Client, Failed, Reach, Response, Target};

/// How often a download that breaks off is gone on with before it is an error.
const TRIES: u32 = 3;
/// How long nothing may arrive.
const IDLE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
const REDIRECTS_MAX: usize = 10;
/// Progress is told when this much more has come.
const TELL: u64 = 1 << 20;

type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// Downloads a file into a folder and gives its path, which ends in `.part`.
pub(super) async fn get(wanted: &Wanted, folder: PathBuf, progress: &Tell) -> Result<PathBuf> {
    let part = folder.join(format!("{}.part", wanted.file));
    let mut tries = 0;
    loop {
        match attempt(wanted, &part, progress).await {
            Ok(()) => break,
            Err(error) if error.is(codes::DOWNLOAD_FAILED) && tries + 1 < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
    check(wanted, &part)?;
    Ok(part)
}

async fn attempt(wanted: &Wanted, part: &Path, progress: &Tell) -> Result<()> {
    let address = match &wanted.place {
        Place::Address(address) => parse(address)?,
        Place::Index(project) => in_index(project, &wanted.file).await?,
    };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(part)
        .map_err(|error| of_io(part, &error))?;
    let mut done = file.seek(SeekFrom::End(0)).map_err(|error| of_io(part, &error))?;
    if wanted.bytes == Some(done) {
        return Ok(());
    }
    let (mut response, address) = ask(address, done).await?;
    let host = address.host_str().unwrap_or_default().to_owned();
    match response.status() {
        StatusCode::PARTIAL_CONTENT if begins_at(&response, done) => {}
        StatusCode::OK => {
            // The server sends everything from the start.
            if done > 0 {
                file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(|error| of_io(part, &error))?;
            }
            done = 0;
        }
        // Nothing is left to send, or what is there is longer than the file: the checksum tells.
        StatusCode::RANGE_NOT_SATISFIABLE if done > 0 && wanted.sha256.is_some() => return Ok(()),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            file.set_len(0).map_err(|error| of_io(part, &error))?;
            return Err(failed(&host, "what was left of an earlier download does not fit".into(), true));
        }
        status => {
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            return Err(failed(&host, format!("it answered {status} for {}", address.path()), passing)
                .with("status", status.as_u16()));
        }
    }
    let total = length(&response).map(|left| left + done).or(wanted.bytes);
    let mut told = done;
    progress(Progress::Downloading { file: wanted.file.clone(), done, total });
    loop {
        let Ok(next) = tokio::time::timeout(IDLE, response.piece()).await else {
            return Err(failed(&host, format!("nothing came for {} s", IDLE.as_secs()), true));
        };
        let next = next.map_err(|error| broken_off(&host, &error))?;
        let Some(bytes) = next else { break };
        file.write_all(&bytes).map_err(|error| of_io(part, &error))?;
        done += bytes.len() as u64;
        if done - told >= TELL || Some(done) == total {
            told = done;
            progress(Progress::Downloading { file: wanted.file.clone(), done, total });
        }
    }
    file.sync_all().map_err(|error| of_io(part, &error))?;
    match total {
        Some(total) if done < total => Err(failed(&host, format!("it ended after {done} of {total} bytes"), true)),
        _ => Ok(()),
    }
}

fn check(wanted: &Wanted, part: &Path) -> Result<()> {
    let Some(expected) = &wanted.sha256 else { return Ok(()) };
    let mut file = File::open(part).map_err(|error| of_io(part, &error))?;
    let (mut sum, mut bytes) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut bytes).map_err(|error| of_io(part, &error))?;
        if count == 0 {
            break;
        }
        sum.update(&bytes[..count]);
    }
    let sum = hex(&sum.finalize());
    if sum == *expected {
        return Ok(());
    }
    // Going on with it would never make it right.
    let _ = fs::remove_file(part);
    let name = &wanted.file;
    Err(Error::new(
        codes::CHECKSUM_MISMATCH,
        format!("{name} has the sha256 {sum}, and should have {expected}: it was deleted; try again, or get it from elsewhere"),
    )
    .with("file", name.as_str()))
}

/// Asks for a file from a byte on, and follows where the server sends.
async fn ask(mut address: Url, from: u64) -> Result<(Response, Url)> {
    for _ in 0..REDIRECTS_MAX {
        let reach = Reach { base_url: &address, proxy: None, authorities: Vec::new(), connect_timeout: CONNECT };
        let (client, target) = (Client::new(reach)?, Target::new(&address)?);
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).expect("a number is a header"));
        }
        let host = address.host_str().unwrap_or_default().to_owned();
        let sent = tokio::time::timeout(IDLE, client.send(Method::GET, &target, &headers, Bytes::new())).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(Failed::TimedOut)) => {
                return Err(failed(&host, format!("no connection within {} s", CONNECT.as_secs()), true));
            }
            Ok(Err(Failed::Unreachable(cause))) => return Err(failed(&host, causes(&*cause), true)),
            Ok(Err(Failed::Broken(error))) => return Err(failed(&host, causes(&error), true)),
            Err(_) => return Err(failed(&host, format!("it did not answer for {} s", IDLE.as_secs()), true)),
        };
        if !response.status().is_redirection() {
            return Ok((response, address));
        }
        let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let target = target.and_then(|target| address.join(target).ok());
        address = target.ok_or_else(|| failed(&host, "it sends nowhere".into(), false))?;
        if !matches!(address.scheme(), "http" | "https") {
            return Err(failed(&host, format!("it sends to {address}"), false));
        }
    }
    Err(failed(address.host_str().unwrap_or_default(), "it sends on and on".into(), false))
}

/// Where the Python index keeps a file: its page of a project is a list of links.
async fn in_index(project: &str, file: &str) -> Result<Url> {
    let index = std::env::var("PIP_INDEX_URL").unwrap_or_else(|_| "https://pypi.org/simple".into());
    let page = parse(&format!("{}/{project}/", index.trim_end_matches('/')))?;
    let (response, page) = ask(page, 0).await?;
    let host = page.host_str().unwrap_or_default().to_owned();
    if !response.status().is_success() {
        let passing = response.status().is_server_error();
        return Err(failed(&host, format!("it answered {} for {}", response.status(), page.path()), passing));
    }
    let Ok(page_text) = tokio::time::timeout(IDLE, text(response)).await else {
        return Err(failed(&host, "its list of files did not arrive".into(), true));
    };
    let text = page_text.map_err(|error| broken_off(&host, &error))?;
    let link = text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).find(|link| {
        let path = link.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next() == Some(file)
    });
    let link = link.ok_or_else(|| failed(&host, format!("{project} has no file {file} there"), false))?;
    page.join(link).map_err(|_| failed(&host, format!("its link to {file} is none"), false))
}

fn begins_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|range| range.strip_prefix("bytes ")).is_some_and(|range| range.starts_with(&format!("{from}-")))
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn text(mut response: Response) -> hyper::Result<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.piece().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn broken_off(host: &str, error: &hyper::Error) -> Error {
    failed(host, format!("the connection broke off ({})", causes(error)), true)
}

fn parse(address: &str) -> Result<Url> {
    Url::parse(address)
        .map_err(|error| Error::new(codes::ARGUMENT_INVALID, format!("{address:?} is no address: {error}")))
}

/// `passing`: trying again may help.
fn failed(host: &str, why: String, passing: bool) -> Error {
    let code = if passing { codes::DOWNLOAD_FAILED } else { codes::DOWNLOAD_REFUSED };
    let way = if passing { "try again: it goes on where it stopped" } else { "check the address" };
    Error::new(code, format!("the download from {host} failed: {why}. {way}")).with("host", host)
}
