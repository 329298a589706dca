//! The dashboard in a real browser: what people see, what they do to the link, and what goes wrong around it. Skips where no chromium is
//! installed.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use semlink_browser::{Page, Scheme, accessibility, axe};
use serde_json::{Value, json};
use support::show::{
    Dashboard, LIVE, MAX_IMAGE_BYTES, REALISED, SOON, Show, forgive, serve_emulator, serve_receiver, serve_transmitter,
    text, wait, wait_text,
};
use support::{IMAGES, path, semlink, stdout};

#[test]
fn live_figures_are_there_and_nothing_comes_from_elsewhere() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    let first = text(&page, "#frame-note");
    assert!(first.contains("64 symbols") && first.contains("Asked for 7.0 dB"), "{first}");
    // It goes on by itself.
    wait(&page, &format!("document.querySelector('#frame-note').textContent !== {first:?}"));
    wait_text(&page, "#f-frames", "^[1-9]");
    wait_text(&page, "#f-accuracy", "%$");
    wait_text(&page, "#f-latency", "^[0-9.]+ ms$");
    wait_text(&page, "#f-requested", "^7.0 dB$");
    let realised = wait(&page, &format!("Number.isFinite({REALISED}) && {REALISED}")).as_f64().expect("dB");
    assert!((realised - 7.0).abs() < 5.0, "{realised}");
    // Points with intervals, and the limit beside them.
    wait(
        &page,
        "document.querySelectorAll('#curve path.interval').length > 0 && document.querySelector('#curve path.limit')?.getTotalLength() > 100",
    );
    // Symbols are drawn: more colours than those of an empty grid.
    for canvas in ["sent", "received"] {
        let dots = format!(
            "(() => {{ const c = document.getElementById('{canvas}'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                const seen = new Set(); for (let i = 0; i < d.length; i += 4) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return seen.size > 8 }})()"
        );
        wait(&page, &dots);
    }
    // Pictures of what was sent.
    wait(&page, "[...document.querySelectorAll('#recent img')].every(i => i.complete && i.naturalWidth === 28)");

    assert_eq!(page.fetched_elsewhere(&show.dashboard.url).expect("addresses"), Vec::<String>::new());
    let requests = page.requests().expect("requests");
    let weight: u64 = requests.iter().filter(|r| r.kind != "EventSource").map(|r| r.bytes).sum();
    assert!((10_000..500_000).contains(&weight), "{weight} bytes: {requests:?}");
    page.finish().expect("no complaints");
}

#[test]
fn the_slider_changes_the_channel_that_following_frames_meet() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    // From -20 to 30 dB: about -15.
    page.drag("#snr", 0.54, 0.1, 20).expect("dragged");
    wait(&page, &format!("{REALISED} < -8 && {REALISED} > -22"));
    let set: f64 = page.evaluate("+document.querySelector('#snr').value").expect("a number");
    assert!((-17.0..-13.0).contains(&set), "{set}");
    wait_text(&page, "#f-requested", &format!("^{set:.1} dB$"));
    assert_eq!(show.snr_db(), set);

    // Typed, and of another kind.
    page.fill("#snr-number", "21.5").expect("typed");
    page.press("Enter").expect("a key");
    wait(&page, &format!("{REALISED} > 17"));
    page.evaluate::<Value>("kind.value = 'rician', kind.dispatchEvent(new Event('change'))").expect("chosen");
    wait(&page, "!document.querySelector('#k-factor').disabled");
    page.fill("#k-factor", "-3").expect("typed");
    page.press("Tab").expect("a key");
    wait_text(&page, "#stages", "rician.*-3");
    let channel = show.channel();
    assert_eq!((&channel["snr_db"], &channel["channel"]), (&json!(21.5), &json!("rician")));
    assert_eq!(channel["k_factor_db"], json!(-3.0));
    page.click("#reset").expect("a click");
    wait_text(&page, "#f-requested", "^7.0 dB$");
    assert_eq!(show.channel()["channel"], "awgn");
    page.finish().expect("no complaints");
}

#[test]
fn a_change_from_outside_is_seen_on_the_page() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    stdout(&semlink(["channel", "set", "--snr-db", "-4.5", "--control", &show.emulator.url]));
    wait(
        &page,
        "document.querySelector('#snr').value === '-4.5' && document.querySelector('#snr-number').value === '-4.5'",
    );
    page.finish().expect("no complaints");
}

#[test]
fn a_sweep_draws_its_curve_with_intervals_and_the_limit() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    // What stands above it has its height by now.
    wait(&page, "document.querySelector('#curve path.limit') && document.querySelector('#curve path.interval')");
    page.fill("#sweep-snr", "-5,5,15").expect("typed");
    assert_eq!(page.evaluate::<String>("document.querySelector('#sweep-snr').value").expect("text"), "-5,5,15");
    page.click("#sweep-start").expect("a click");
    wait_text(&page, "#sweep-state", "^Done: 6 points");
    // Two kinds of channel, squares for what was measured.
    wait(
        &page,
        "document.querySelectorAll('#curve rect').length === 6 && document.querySelectorAll('#curve path.line').length === 2",
    );
    wait(
        &page,
        "document.querySelectorAll('#curve path.interval').length >= 6 && document.querySelector('#curve path.limit')",
    );
    let rows: Vec<Vec<String>> = page
        .evaluate("[...document.querySelectorAll('#curve-table tbody tr')].map(r => [...r.cells].map(c => c.textContent)).filter(r => r[0].includes('sweep'))")
        .expect("a table");
    let points: Vec<(&str, &str, &str)> = rows.iter().map(|r| (r[0].as_str(), r[1].as_str(), r[3].as_str())).collect();
    let images = IMAGES.to_string();
    let expected = ["AWGN (sweep)", "Rayleigh (sweep)"]
        .map(|kind| ["-5", "5", "15"].map(|snr| (kind, snr, images.as_str())))
        .concat();
    assert_eq!(points, expected);
    for row in &rows {
        let (low, high) = row[5].split_once(" to ").expect("an interval");
        let (low, high): (f64, f64) = (low.parse().expect("a number"), high.parse().expect("a number"));
        let accuracy: f64 = row[4].trim_end_matches(" %").parse().expect("a number");
        assert!(low <= accuracy && accuracy <= high && high - low > 10.0, "{row:?}");
    }
    // The channel is as it was, and the images go on.
    assert_eq!((show.snr_db(), &show.channel()["channel"]), (7.0, &json!("awgn")));
    wait_text(&page, "#f-requested", "^7.0 dB$");

    // What is no grid is told where it was typed; a second sweep replaces the first.
    page.fill("#sweep-snr", "5:1").expect("typed");
    page.click("#sweep-start").expect("a click");
    wait_text(&page, "#sweep-error", "5:1");
    forgive(&page, &["400"]);
    page.fill("#sweep-snr", "3").expect("typed");
    page.click("#sweep-start").expect("a click");
    wait_text(&page, "#sweep-state", "^Done: 2 points");
    assert_eq!(text(&page, "#sweep-error"), "");
    page.finish().expect("no complaints");
}

#[test]
fn an_image_is_classified_and_what_is_none_is_told() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    let good = show.file("good.png", &semlink_codec::testing::png(1));
    page.choose_files("#file", std::slice::from_ref(&good)).expect("chosen");
    wait_text(&page, "#upload", "k = 64");
    let shown = "(i => i?.complete && i.naturalWidth > 0 && i.alt)(document.querySelector('#upload img'))";
    assert_eq!(wait(&page, shown), "good.png");
    // The same again is a new one.
    page.evaluate::<Value>("upload.replaceChildren()").expect("cleared");
    page.drop_files("#drop", std::slice::from_ref(&good)).expect("dropped");
    wait_text(&page, "#upload", "k = 64");
    // Dropped beside it, it does not replace the page.
    page.drop_files("header", std::slice::from_ref(&good)).expect("dropped");

    let none = show.file("letter.png", b"Dear Sir or Madam");
    page.choose_files("#file", &[none]).expect("chosen");
    let told = wait_text(&page, "#upload", "^letter.png: ");
    assert!(!told.contains("http://"), "what is wrong with the image, not with a service: {told}");
    let huge = show.file("huge.png", &vec![0; MAX_IMAGE_BYTES + 1]);
    page.choose_files("#file", &[huge]).expect("chosen");
    assert_eq!(wait_text(&page, "#upload", "^huge.png: "), "huge.png: the file has more than 100000 bytes");
    let larger = show.file("larger.png", &vec![0; 20_000_000]);
    page.choose_files("#file", &[larger]).expect("chosen");
    assert_eq!(wait_text(&page, "#upload", "^larger.png: "), "larger.png: the file has more than 100000 bytes");
    let empty = show.file("empty.png", b"");
    page.drop_files("#drop", &[empty]).expect("dropped");
    wait_text(&page, "#upload", "^empty.png: .");

    // None of it has disturbed anything.
    let before: u64 = page.evaluate("+document.querySelector('#recent li img').src.length").expect("a number");
    assert!(before > 0);
    assert_eq!(text(&page, "#f-failed"), "mean, all hops", "no image of the page failed");
    page.choose_files("#file", &[good]).expect("chosen");
    wait_text(&page, "#upload", "k = 64");
    forgive(&page, &["400", "413", "ERR_CONNECTION_RESET"]);
    page.finish().expect("no other complaints");
}

#[test]
fn a_service_that_goes_away_is_named_and_comes_back_by_itself() {
    let Some(mut show) = Show::start() else { return };
    let page = show.page();
    assert!(page.evaluate::<bool>("document.querySelector('#trouble').hidden").expect("a value"));
    let back = format!(
        "document.querySelector('#trouble').hidden && ['transmitter', 'emulator', 'link'].every(id => document.getElementById(id).className === 'up')
            && {LIVE}"
    );
    let goes_on = |page: &Page| {
        wait(page, &back);
        let seen = text(page, "#frame-note");
        wait(page, &format!("document.querySelector('#frame-note').textContent !== {seen:?}"));
    };

    show.emulator.stop();
    let told = wait_text(&page, "#trouble", "emulator is away");
    assert!(told.contains(&show.emulator.url) && !told.contains("The transmitter is away"), "{told}");
    wait_text(&page, "#emulator", "away");
    assert_eq!(text(&page, "#transmitter b"), "up");
    // A control says so, too.
    page.fill("#snr-number", "3").expect("typed");
    page.press("Enter").expect("a key");
    wait_text(&page, "#control-error", "127.0.0.1");
    show.emulator.again(serve_emulator(&show.receiver.url));
    goes_on(&page);

    show.transmitter.stop();
    let told = wait_text(&page, "#trouble", "transmitter is away");
    assert!(told.contains(&show.transmitter.url) && !told.contains("The emulator is away"), "{told}");
    show.transmitter.again(serve_transmitter(&show.dir, &show.emulator.url));
    goes_on(&page);

    // Behind the transmitter: neither is away, and yet nothing comes.
    show.receiver.stop();
    wait_text(&page, "#link", "away");
    assert_eq!((text(&page, "#transmitter b"), text(&page, "#emulator b")), ("up".into(), "up".into()));
    assert!(text(&page, "#trouble").contains("The link does not answer"), "{}", text(&page, "#trouble"));
    show.receiver.again(serve_receiver(&show.dir));
    goes_on(&page);
    forgive(&page, &["502", "503", "504"]);
    page.finish().expect("no other complaints");
}

#[test]
fn a_dashboard_that_goes_away_is_found_again() {
    let Some(mut show) = Show::start() else { return };
    let page = show.page();
    let address = show.dashboard.url.trim_start_matches("http://").to_owned();
    show.dashboard.child.kill().expect("it runs");
    show.dashboard.child.wait().expect("it ends");
    wait_text(&page, "#trouble", "dashboard itself is away");
    let data = path(&show.dir, "data");
    let urls = ["--to", &show.transmitter.url, "--control", &show.emulator.url, "--listen", &address, "--data", &data];
    show.dashboard = Dashboard::start(&urls);
    wait(&page, &format!("document.querySelector('#trouble').hidden && {LIVE}"));
    let seen = text(&page, "#frame-note");
    wait(&page, &format!("document.querySelector('#frame-note').textContent !== {seen:?}"));
    forgive(&page, &["ERR_"]);
}

#[test]
fn values_out_of_range_are_told_and_change_nothing() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    let before = show.channel();
    // SNRs end at 100 dB; a frame has no negative symbols; a page sends at most 1,000 images a second.
    for (field, value, shown) in
        [("#snr-number", "1e6", "7"), ("#snr-number", "-500", "7"), ("#pace", "0", "25"), ("#pace", "1e9", "25")]
    {
        page.evaluate::<Value>("document.querySelector('#control-error').textContent = ''").expect("cleared");
        page.fill(field, value).expect("typed");
        page.press("Tab").expect("a key");
        wait_text(&page, "#control-error", ".");
        // The field is again what holds.
        wait(&page, &format!("document.querySelector('{field}').value === '{shown}'"));
    }
    page.fill("#sweep-images", "0").expect("typed");
    page.click("#sweep-start").expect("a click");
    // The browser itself refuses it.
    assert!(!page.evaluate::<bool>("document.querySelector('#sweep-images').checkValidity()").expect("a value"));
    assert_eq!(show.channel(), before);
    wait(&page, LIVE);
    forgive(&page, &["400", "422"]);
    page.finish().expect("no other complaints");
}

#[test]
fn two_pages_agree_also_when_both_move_the_slider() {
    let Some(show) = Show::start() else { return };
    let (one, other) = (show.page(), show.page());
    one.evaluate::<Value>("kind.value = 'rayleigh', kind.dispatchEvent(new Event('change'))").expect("chosen");
    wait(&other, "document.querySelector('#kind').value === 'rayleigh'");
    other.click("#pause").expect("a click");
    wait_text(&one, "#pause", "^Go on$");
    one.click("#pause").expect("a click");
    wait_text(&other, "#pause", "^Pause$");

    // One goes down while the other goes up.
    std::thread::scope(|scope| {
        scope.spawn(|| one.drag("#snr", 0.5, 0.1, 40).expect("dragged"));
        scope.spawn(|| other.drag("#snr", 0.5, 0.9, 40).expect("dragged"));
    });
    // The last wish of one of them holds, for both and for the link.
    let shown = |page: &Page| -> Vec<f64> {
        let fields = "['snr', 'snr-number'].map(id => document.getElementById(id).valueAsNumber)";
        page.evaluate(fields).expect("numbers")
    };
    let begin = Instant::now();
    let snr_db = loop {
        let (left, right, held) = (shown(&one), shown(&other), show.snr_db());
        if left == right && left == [held; 2] {
            break held;
        }
        assert!(begin.elapsed() < SOON, "one page has {left:?}, the other {right:?}, the link {held}");
    };
    assert!((snr_db - 5.0).abs() > 15.0, "{snr_db}");
    wait_text(&one, "#f-requested", &format!("^{snr_db:.1} dB$"));
    wait_text(&other, "#f-requested", &format!("^{snr_db:.1} dB$"));
    assert_eq!(show.snr_db(), snr_db, "nothing moves it any more");
    one.finish().expect("no complaints");
    other.finish().expect("no complaints");
}

/// Reads the events of a page, if it reads at all.
fn events(url: &str) -> TcpStream {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET /events HTTP/1.1\r\nhost: {address}\r\n\r\n").expect("a request");
    stream
}

#[test]
fn a_slow_browser_disturbs_nothing() {
    let Some(show) = Show::with(&["--images-per-second", "200"]) else { return };
    // One that reads nothing, one whose processor is slow, and one that is well.
    let stuck = events(&show.dashboard.url);
    let slow = show.page();
    slow.slow_down(20.0).expect("set");
    let page = show.page();
    let number = "+document.querySelector('#recent img').alt.length && performance.now()";
    wait(&page, number);
    // Two megabytes of events: more than the sockets of the one that does not read take in.
    let mut well = events(&show.dashboard.url);
    let mut read = vec![0; 2_000_000];
    well.set_read_timeout(Some(SOON)).expect("set");
    well.read_exact(&mut read).expect("events keep coming");
    let seen = String::from_utf8_lossy(&read).matches("event: live").count();
    assert!(seen > 20, "{seen}");
    let note = text(&page, "#frame-note");
    wait(&page, &format!("document.querySelector('#frame-note').textContent !== {note:?}"));
    assert_eq!(text(&page, "#f-failed"), "mean, all hops", "no image failed");
    // The link answers others meanwhile.
    let image = show.file("image.png", &semlink_codec::testing::png(1)).display().to_string();
    assert!(stdout(&semlink(["send", "--to", &show.transmitter.url, &image])).contains("k = 64"));
    // The slow one lags and catches up: it misses events, it does not queue them.
    page.fill("#snr-number", "-9").expect("typed");
    page.press("Enter").expect("a key");
    wait(&slow, "document.querySelector('#snr').value === '-9'");
    drop(stuck);
    slow.finish().expect("no complaints");
    page.finish().expect("no complaints");
}

#[test]
fn everything_can_be_done_by_keyboard() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    let go_to = |id: &str| {
        for _ in 0..60 {
            page.press("Tab").expect("a key");
            let at: String = page.evaluate("document.activeElement.id").expect("an id");
            if at == id {
                return;
            }
        }
        panic!("Tab does not reach #{id}");
    };
    go_to("snr");
    for _ in 0..4 {
        page.press("ArrowRight").expect("a key");
    }
    wait_text(&page, "#f-requested", "^9.0 dB$");
    assert_eq!(show.snr_db(), 9.0);
    go_to("kind");
    page.press("ArrowDown").expect("a key");
    page.press("Enter").expect("a key");
    wait(&page, "document.querySelector('#kind').value === 'rayleigh'");
    wait_text(&page, "#stages", "rayleigh");
    go_to("pause");
    page.press("Space").expect("a key");
    wait_text(&page, "#pause", "^Go on$");
    page.press("Enter").expect("a key");
    wait_text(&page, "#pause", "^Pause$");
    go_to("sweep-snr");
    page.press("Control+a").expect("a key");
    page.type_text("6").expect("typed");
    page.press("Enter").expect("a key");
    wait_text(&page, "#sweep-state", "^Done: 2 points");
    page.finish().expect("no complaints");
}

#[test]
fn the_page_is_there_for_everyone() {
    let Some(show) = Show::start() else { return };
    let page = show.page();
    wait(&page, "document.querySelectorAll('#curve path.interval').length > 0");
    // With its table open and something of everything on it.
    page.click("details summary").expect("a click");
    let good = show.file("good.png", &semlink_codec::testing::png(1));
    page.choose_files("#file", &[good]).expect("chosen");
    wait_text(&page, "#upload", "k = 64");
    let found = accessibility::check(&page).expect("a check");
    assert!(found.is_empty(), "{}", found.iter().map(|v| format!("{v}\n")).collect::<String>());
    if let Some(file) = axe::file() {
        for (scheme, width) in [(Scheme::Light, 1280), (Scheme::Dark, 1280), (Scheme::Dark, 360)] {
            page.color_scheme(Some(scheme)).expect("set");
            page.viewport(width, 900).expect("set");
            assert_eq!(axe::check(&page, &file).expect("a check"), [], "{scheme:?}, {width} pixels");
        }
    }
    page.finish().expect("no complaints");
}
