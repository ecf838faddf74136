//! Prints how many packets an interface received each second: bpfd loads and attaches the XDP program, and its map is read here with
//! aya, through the pin that bpfd names. It must leave nothing loaded when it ends.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use bpfd_client::proto::v1::{self as pb, hook, load_request, unload_request};
use bpfd_client::{Client, ClientError, request_id};
use clap::Parser;

/// Counts the packets that an interface receives, until Ctrl-C
#[derive(Parser)]
struct Args {
    /// bpfd's socket
    #[arg(long, default_value = "/run/bpfd/bpfd.sock")]
    socket: PathBuf,
    /// The compiled BPF program
    #[arg(long, default_value = "target/bpf/xdp-counter.bpf.o")]
    object: PathBuf,
    /// Where to count
    #[arg(long, default_value = "eth0")]
    interface: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "where errors go")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let Args { socket, object, interface } = args;
    let bytes = std::fs::read(&object).with_context(|| format!("cannot read `{}`", object.display()))?;
    let mut bpfd = Client::connect(&socket, Duration::from_secs(1)).await.map_err(explained)?;
    let app = load(&mut bpfd, &bytes, interface).await.map_err(explained)?;
    let watched = watch(&app).await;
    let request = pb::UnloadRequest {
        request_id: request_id(),
        target: Some(unload_request::Target::Apps(pb::AppNames { names: vec![app.uid] })),
        ..Default::default()
    };
    bpfd.unload(request).await.map_err(explained)?;
    watched
}

/// Uploads the object, and loads and attaches its program: both, or nothing.
async fn load(bpfd: &mut Client, object: &[u8], interface: String) -> Result<pb::App, ClientError> {
    let uploaded = bpfd.upload(object).await?;
    let hook = hook::Hook::Xdp(pb::XdpHook { netns: None, interface });
    let request = pb::LoadRequest {
        request_id: request_id(),
        name_hint: Some("rust-xdp-counter".to_owned()),
        source: Some(load_request::Source::ObjectSha256(uploaded.sha256)),
        attach: vec![pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() }],
        ..Default::default()
    };
    let loaded = bpfd.load(request, |_progress| {}).await?;
    Ok(loaded.app.unwrap_or_default())
}

/// Prints what the app's map counts in each second, until Ctrl-C.
#[expect(clippy::print_stdout, reason = "what the program is for")]
async fn watch(app: &pb::App) -> Result<()> {
    let packets = app.maps.iter().find(|map| map.name == "packets");
    let pin = packets.and_then(|map| map.pin_path.as_ref()).context("the object has no map `packets`")?;
    let map = MapData::from_pin(pin).with_context(|| format!("cannot open `{pin}`"))?;
    let packets: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into()?;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut before = 0;
    loop {
        tokio::select! {
            _ = seconds.tick() => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        let sum: u64 = packets.get(&0, 0)?.iter().sum();
        println!("{} packets/s", sum - before);
        before = sum;
    }
}

/// What bpfd says, why, and what to do.
fn explained(error: ClientError) -> anyhow::Error {
    let answer = error.answer();
    let line = |word, text: &Option<String>| text.as_ref().map(|text| format!("\n{word}: {text}")).unwrap_or_default();
    anyhow::anyhow!("{}{}{}", answer.message, line("cause", &answer.cause), line("hint", &answer.hint))
}
