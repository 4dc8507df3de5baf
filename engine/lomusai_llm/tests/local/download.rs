//! Downloads that break off, lie, or do not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lomusai_core::{Error, Result};
use lomusai_llm::local::{Progress, Store};
use lomusai_wire::codes;
use sha2::{Digest, Sha256};

use crate::server::{answering, response, serve};
use crate::{RUNTIME, folder};

const BODY: &str = "the bytes of a model, of which some arrive and some do not";

fn sum() -> String {
    Sha256::digest(BODY).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn fetch(store: &Store, port: u16, after: &str) -> Result<String> {
    let path = store.fetch(&format!("http://127.0.0.1:{port}/models/x.gguf{after}"), Arc::new(|_| {})).await?;
    Ok(std::fs::read_to_string(path).unwrap())
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let folder = folder("resumed");
    let store = Store::new(Some(folder.clone()), false);
    RUNTIME.block_on(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        // Ten bytes per connection, and then nothing more.
        let port = serve(move |mut connection| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let request = connection.request().await;
                let from: usize = request
                    .header("range")
                    .map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
                let rest = &BODY[from..];
                let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{}\r\n\r\n",
                    rest.len(),
                    BODY.len() - 1,
                    BODY.len()
                );
                connection.send(head).await;
                connection.send(&rest[..rest.len().min(10)]).await;
            }
        })
        .await;
        let mut failed = 0;
        let text = loop {
            match fetch(&store, port, &format!("#sha256={}", sum())).await {
                Ok(text) => break text,
                Err(error) => {
                    assert!(error.is(codes::DOWNLOAD_FAILED) && error.is_retryable(), "{error}");
                    failed += 1;
                    assert!(failed < 10, "it gets further with each try");
                }
            }
        };
        assert_eq!(text, BODY);
        assert_eq!(asked.load(Ordering::SeqCst), BODY.len().div_ceil(10), "no byte came twice");
        // It is there now: nobody is asked.
        assert_eq!(fetch(&store, port, "").await.unwrap(), BODY);
        assert_eq!(asked.load(Ordering::SeqCst), BODY.len().div_ceil(10));
    });
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let folder = folder("checksum");
    let store = Store::new(Some(folder.clone()), false);
    let error: Error = RUNTIME.block_on(async {
        let port = answering(response("200 OK", "", BODY)).await;
        fetch(&store, port, &format!("#sha256={}", "0".repeat(64))).await.unwrap_err()
    });
    assert!(error.is(codes::CHECKSUM_MISMATCH) && error.body().message.contains("x.gguf"), "{error}");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|end| end == "lock")), "{left:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let folder = folder("full");
    let store = Store::new(Some(folder.clone()), false);
    let error = RUNTIME.block_on(async {
        let port = answering(response("200 OK", "", BODY)).await;
        // The name that the download gets is learnt from one that cannot begin.
        let nobody = Store::new(Some(folder.clone()), false);
        let progress = Arc::new(std::sync::Mutex::new(None));
        let seen = progress.clone();
        let address = format!("http://127.0.0.1:{port}/models/x.gguf");
        let path = nobody
            .fetch(
                &address,
                Arc::new(move |told| {
                    if let Progress::Downloading { file, .. } = told {
                        *seen.lock().unwrap() = Some(file)
                    }
                }),
            )
            .await
            .unwrap();
        std::fs::remove_file(path).unwrap();
        let name = progress.lock().unwrap().clone().unwrap();
        // Where every write says that the disk is full.
        std::os::unix::fs::symlink("/dev/full", folder.join(format!("{name}.part"))).unwrap();
        store.fetch(&address, Arc::new(|_| {})).await.unwrap_err()
    });
    assert!(error.is(codes::DISK_FULL) && error.body().message.contains("LOMUSAI_MODELS_DIR"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_redirect_is_followed_and_a_refusal_is_final() {
    let folder = folder("redirect");
    let store = Store::new(Some(folder.clone()), false);
    RUNTIME.block_on(async {
        let target = answering(response("200 OK", "", BODY)).await;
        let port =
            answering(response("302 Found", &format!("location: http://127.0.0.1:{target}/elsewhere\r\n"), "")).await;
        assert_eq!(fetch(&store, port, "").await.unwrap(), BODY);
        let port = answering(response("404 Not Found", "", "no")).await;
        let error = fetch(&store, port, "").await.unwrap_err();
        assert!(error.is(codes::DOWNLOAD_REFUSED) && !error.is_retryable(), "{error}");
        let port = answering(response("503 Service Unavailable", "", "busy")).await;
        assert!(fetch(&store, port, "").await.unwrap_err().is(codes::DOWNLOAD_FAILED));
    });
    std::fs::remove_dir_all(folder).unwrap();
}
