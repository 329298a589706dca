//! Links and channels as text and JSON.

use std::io::Write;

use anyhow::{Context as _, Result};
use semlink_channel::{StageSpec, models};
use semlink_proto::v1;
use semlink_service::wire;
use serde_json::{Value, json};

use crate::client;

/// A channel, in a line.
pub(super) fn profile(profile: &v1::ChannelProfile, as_json: bool, out: &mut impl Write) -> Result<()> {
    let line = if as_json { to_json(profile).to_string() } else { to_text(profile) };
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output")
}

/// A link with its counts, in a line.
pub(super) fn link(link: &v1::LinkState, as_json: bool, out: &mut impl Write) -> Result<()> {
    let profile = link.profile.clone().unwrap_or_default();
    let v1::LinkState { name, next, next_link, frames, lost, failed, streams, recording, .. } = link;
    let line = if as_json {
        let recording = if recording.is_empty() { Value::Null } else { recording.as_str().into() };
        json!({
            "link": name, "next": next, "next_link": next_link, "frames": frames, "lost": lost, "failed": failed,
            "streams": streams, "recording": recording, "profile": to_json(&profile),
        })
        .to_string()
    } else {
        let at = if next_link.is_empty() { String::new() } else { format!(" link {next_link}") };
        let recording = if recording.is_empty() { String::new() } else { format!(", recorded as {recording}") };
        let counts = format!("{frames} frames, {lost} lost, {failed} failed, {streams} streams open{recording}");
        format!("{name} -> {next}{at}: {counts}; {}", to_text(&profile))
    };
    writeln!(out, "{line}").context("standard output")
}

/// Every model with its parameters.
pub(super) fn models(as_json: bool, out: &mut impl Write) -> Result<()> {
    for model in models::ALL {
        if as_json {
            let parameters = model.parameters.iter().map(|p| {
                json!({"name": p.name, "meaning": p.meaning, "values": p.kind.to_string(), "default": p.kind.default()})
            });
            let parameters: Vec<Value> = parameters.collect();
            let object = json!({"model": model.name, "summary": model.summary, "parameters": parameters});
            writeln!(out, "{object}").context("standard output")?;
            continue;
        }
        writeln!(out, "{}: {}", model.name, model.summary).context("standard output")?;
        for parameter in model.parameters {
            let default = parameter.kind.default().map(|default| format!(", default {default}")).unwrap_or_default();
            let line = format!("    {}: {}; {}{default}", parameter.name, parameter.meaning, parameter.kind);
            writeln!(out, "{line}").context("standard output")?;
        }
    }
    Ok(())
}

fn stages(profile: &v1::ChannelProfile) -> Vec<StageSpec> {
    profile.stages.iter().filter_map(|stage| wire::try_stage(stage).ok()).collect()
}

fn kind(profile: &v1::ChannelProfile) -> &'static str {
    wire::try_kind(profile.kind).map_or("unknown", |kind| kind.as_str())
}

fn axis(schedule: &v1::Schedule) -> &'static str {
    match schedule.axis() {
        v1::ScheduleAxis::Seconds => "seconds",
        v1::ScheduleAxis::Frames => "frames",
        v1::ScheduleAxis::Unspecified => "unspecified",
    }
}

fn to_json(profile: &v1::ChannelProfile) -> Value {
    let v1::ChannelProfile { snr_db, k_factor_db, coherence, seed, version, .. } = *profile;
    let transport = profile.transport.unwrap_or_default();
    let schedule = profile.schedule.as_ref().map(|schedule| {
        let points: Vec<_> = schedule.points.iter().map(|point| (point.at, point.snr_db)).collect();
        let walk = schedule.walk.map(|walk| {
            json!({"every": walk.every, "step_db": walk.step_db, "lowest_db": walk.lowest_db, "highest_db": walk.highest_db})
        });
        json!({
            "axis": axis(schedule), "points": points, "steps": schedule.steps, "repeat": schedule.repeat, "walk": walk,
        })
    });
    json!({
        "link": profile.link, "channel": kind(profile), "snr_db": snr_db, "k_factor_db": k_factor_db,
        "coherence": coherence, "csi": client::csi_name(profile.csi()), "seed": seed, "version": version,
        "stages": stages(profile), "schedule": schedule,
        "transport": {
            "loss": transport.loss, "delay_ms": transport.delay_ms, "jitter_ms": transport.jitter_ms,
            "reorder": transport.reorder, "symbols_per_second": transport.symbols_per_second,
        },
    })
}

pub(super) fn to_text(profile: &v1::ChannelProfile) -> String {
    let v1::ChannelProfile { snr_db, k_factor_db, coherence, seed, version, .. } = *profile;
    let (kind, csi) = (kind(profile), client::csi_name(profile.csi()));
    let rician = if kind == "rician" { format!(", K {k_factor_db} dB") } else { String::new() };
    let coherence = if coherence == 0 { "a frame".to_owned() } else { format!("{coherence} symbols") };
    let mut text = format!("{kind}, SNR {snr_db} dB{rician}, coherence {coherence}, CSI {csi}, seed {seed}");
    if let Some(schedule) = &profile.schedule {
        let axis = axis(schedule);
        let what = match schedule.walk {
            Some(walk) => format!("a walk from {} to {} dB", walk.lowest_db, walk.highest_db),
            None => format!("{} points", schedule.points.len()),
        };
        let repeated = if schedule.repeat { ", repeated" } else { "" };
        text += &format!(", SNR scheduled by {axis}: {what}{repeated}");
    }
    let transport = profile.transport.unwrap_or_default();
    if transport != v1::Transport::default() {
        let v1::Transport { loss, delay_ms, jitter_ms, reorder, symbols_per_second } = transport;
        text += &format!(", loss {loss}, delay {delay_ms} +- {jitter_ms} ms, reorder {reorder}");
        if symbols_per_second > 0.0 {
            text += &format!(", {symbols_per_second} symbols/s");
        }
    }
    // A line of sight or a fading block are told already.
    let stages = stages(profile);
    let plain = |spec: &StageSpec| {
        ["awgn", "rayleigh", "rician"].contains(&spec.model.as_str())
            && spec.parameters.keys().all(|name| ["snr_db", "k_factor_db", "coherence"].contains(&name.as_str()))
    };
    if !stages.iter().all(plain) {
        let stages: Vec<String> = stages.iter().map(ToString::to_string).collect();
        text += &format!(", stages {}", stages.join(" "));
    }
    format!("{text} (version {version})")
}
