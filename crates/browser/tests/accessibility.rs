//! The accessibility checks on small pages that break one rule each, and on one that breaks none.

use std::sync::Arc;

use semlink_browser::accessibility::{self, Rule};
use semlink_browser::{Browser, Page, axe};

const GOOD: &str = "<html lang=en><meta name=viewport content='width=device-width'><title>Good</title>
<style>
    :root { color-scheme: light dark; font: 16px sans-serif }
    .dim { color: light-dark(#595959, #b0b0b0) }
    .only-read { position: absolute; width: 1px; height: 1px; overflow: hidden; color: #eee }
    h1 { color: #767676; font-size: 32px } /* 4.54:1 on white, 3.9:1 on what the browser takes for black: large text */
    svg { max-width: 100% }
</style>
<main><h1>Heading</h1><p class=dim>Text <a href='#x'>link</a></p>
<label>SNR <input type=range></label> <label for=n>Number</label> <input id=n type=number value=3>
<label>Channel <select><option>awgn<option>rayleigh</select></label>
<fieldset><legend>Rate</legend><label><input type=radio name=r>auto</label><label><input type=radio name=r checked>64</label></fieldset>
<button aria-label=Pause>||</button> <button disabled style='color: #ccc; background: #ddd'>Later</button>
<label>File <input type=file></label>
<span class=only-read>read aloud</span>
<details><summary>More</summary><button>inside</button></details>
<div role=tablist aria-label=Views><button role=tab aria-selected=true>A</button><button role=tab tabindex=-1 aria-selected=false>B</button></div>
<div inert><button>not now</button></div>
<svg viewBox='0 0 100 20' width=100 height=20 role=img aria-label=Plot><rect width=100 height=20 fill='#222'></rect><text x=5 y=15 font-size=10 fill='#ddd'>axis</text></svg>
</main>";

fn page(html: &str) -> Option<(Arc<Browser>, Page)> {
    let browser = Browser::shared().expect("it starts")?;
    let page = browser.page().expect("a page");
    let bytes = html.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    page.navigate(&format!("data:text/html;charset=utf-8,{bytes}")).expect("it loads");
    Some((browser, page))
}

#[test]
fn a_page_for_everyone_has_no_violations() {
    let Some((_browser, page)) = page(GOOD) else { return };
    let before: String = page.evaluate("document.documentElement.outerHTML").expect("a document");
    let found = accessibility::check(&page).expect("a check");
    assert!(found.is_empty(), "{}", found.iter().map(|v| format!("{v}\n")).collect::<String>());
    assert_eq!(page.evaluate::<String>("document.documentElement.outerHTML").expect("a document"), before);
    page.finish().expect("no complaints");
}

/// Selectors, and a part of what is told of them.
type Broken = &'static [(&'static str, &'static str)];

/// What each element with an id breaks, and how the detail begins or goes on; nothing else is to be found.
#[test]
fn each_broken_rule_is_found_and_nothing_else() {
    let pages: [(&str, Rule, Broken); 8] = [
        (
            "<input id=a> <label>Near</label><select id=b><option>x</select> <button id=c><svg width=9 height=9></svg></button>
            <a id=d href='#y'><img></a> <button id=e aria-hidden=true>hidden</button> <div id=f tabindex=0></div>",
            Rule::Name,
            &[
                ("#a", "no accessible name"),
                ("#b", "no accessible name"),
                ("#c", "no accessible name"),
                ("#d", "no accessible name"),
                ("#e", "hidden from screen readers"),
                ("#f", "no accessible name"),
            ],
        ),
        (
            "<button>a</button><button id=a tabindex=-1>b</button><div id=b role=button>c</div>
            <div id=c style='height: 50px; overflow: auto'><p style='height: 500px'>long</p></div>",
            Rule::Keyboard,
            &[("#b", "cannot have the focus"), ("#c", "no control"), ("#a", "does not reach"), ("#b", "does not reach")],
        ),
        (
            "<button>a</button><button id=a tabindex=1>b</button><button>c</button>",
            Rule::Keyboard,
            &[("#a", "out of the order")],
        ),
        (
            "<button id=t>trap</button><button id=a>b</button><script>t.onkeydown = e => e.key === 'Tab' && e.preventDefault()</script>",
            Rule::Keyboard,
            &[("#a", "does not reach")],
        ),
        (
            "<p id=a style='color: #777; background: #fff'>4.48:1</p> <p style='color: #767676; background: #fff'>4.54:1</p>
            <p id=b style='color: #333'>for light</p> <p id=c style='color: #ddd'>for dark</p>
            <div style='background: #fff'><p id=d style='color: #000; opacity: 0.4'>faint</p></div>
            <label>N <input id=e value=3 style='color: #aaa; background: #fff'></label>
            <label>M <input id=f placeholder=empty style='background: #fff'></label><style>#f::placeholder { color: #bbb }</style>
            <svg width=100 height=20><rect width=100 height=20 fill=black></rect><text id=g y=15 fill='#444'>axis</text></svg>
            <p id=h style='background: linear-gradient(red, blue)'>text</p>
            <p id=i style='color: #949494; background: #fff; font: bold 18.4px sans-serif'>not quite large</p>
            <p style='color: #949494; background: #fff; font: bold 19px sans-serif'>large</p>",
            Rule::Contrast,
            &[
                ("#a", "\"4.48:1\" has 4.48:1, #777777 on #ffffff; it needs 4.5:1"),
                ("#b", "in dark"),
                ("#c", "in light"),
                ("#d", "has 2.85:1, #999999 on #ffffff"),
                ("#e", "\"3\""),
                ("#f", "\"empty\""),
                ("#g", "#444444 on #000000"),
                ("#h", "picture"),
                ("#i", "needs 4.5:1"),
            ],
        ),
        ("<div id=a style='width: 400px'><b>wide</b></div>", Rule::Width, &[("#a", "pixels on a page of 360")]),
        (
            "<style>body { margin: 0; overflow-x: hidden } pre { font: 16px monospace }</style><pre id=a>a line that is much longer than a telephone is wide</pre>",
            Rule::Width,
            &[("#a", "of 360")],
        ),
        // Nothing to do with words that are not there.
        ("<details><summary>More</summary><input></details> <input type=hidden> <p hidden style='color: #eee'>x</p>", Rule::Name, &[]),
    ];
    let mut wrong = Vec::new();
    for (body, rule, expected) in pages {
        let head = "<meta name=viewport content='width=device-width'><style>:root { color-scheme: light dark } body { margin: 0 }</style>";
        let Some((_browser, page)) = page(&format!("{head}{body}")) else { return };
        let found = accessibility::check(&page).expect("a check");
        let is = |v: &accessibility::Violation, (id, detail): &(&str, &str)| {
            v.rule == rule && v.subject == *id && v.detail.contains(detail)
        };
        let told = found.iter().map(|v| format!("    {v}\n")).collect::<String>();
        if let Some(unknown) = found.iter().find(|v| !expected.iter().any(|e| is(v, e))) {
            wrong.push(format!("{body}\nnot expected: {unknown}\n{told}"));
        }
        if let Some(missing) = expected.iter().find(|e| !found.iter().any(|v| is(v, e))) {
            wrong.push(format!("{body}\nmissing: {rule:?} {missing:?}\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_page_that_does_not_fit_itself_to_the_window_is_told_as_one() {
    let Some((_browser, page)) = page("<p>no viewport</p>") else { return };
    let found = accessibility::check(&page).expect("a check");
    assert!(found.iter().any(|v| v.rule == Rule::Width && v.detail.contains("viewport")), "{found:?}");
}

#[test]
fn axe_finds_what_is_broken_and_nothing_in_the_good_page() {
    let Some(file) = axe::file() else { return };
    let Some((_browser, page)) = page(GOOD) else { return };
    assert_eq!(axe::check(&page, &file).expect("a check"), []);
    assert!(page.evaluate::<bool>("window.axe === undefined").expect("a value"), "it leaves no traces");
    page.finish().expect("no complaints");

    let Some((_browser, page)) = self::page("<html lang=en><title>x</title><main><h1>x</h1><input id=x></main>") else {
        return;
    };
    let found = axe::check(&page, &file).expect("a check");
    let label = found.iter().find(|v| v.id == "label").expect("the label");
    assert_eq!((label.impact.as_str(), label.selectors.as_slice()), ("critical", &["#x".to_owned()][..]));
}
