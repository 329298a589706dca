// What the accessibility check looks for in a page. Runs in a world of its own and leaves the document as it is.
(() => {
  const NATIVE = 'a[href], area[href], button, input, select, textarea, summary';
  const ROLES = ['button', 'checkbox', 'combobox', 'link', 'listbox', 'menuitem', 'option', 'radio', 'slider', 'spinbutton',
    'switch', 'tab', 'textbox'].map((role) => `[role=${role}]`).join();
  // Within these, arrow keys lead from one control to the next, and Tab reaches one of them.
  const COMPOSITES = '[role=tablist], [role=toolbar], [role=radiogroup], [role=listbox], [role=menu], [role=menubar], [role=grid], [role=tree]';

  const selector = (element) => {
    const steps = [];
    for (let e = element; e; e = e.parentElement) {
      if (e.id) return [`#${CSS.escape(e.id)}`, ...steps].join(' > ');
      const alike = e.parentElement ? [...e.parentElement.children].filter((other) => other.localName === e.localName) : [];
      steps.unshift(alike.length > 1 ? `${e.localName}:nth-of-type(${alike.indexOf(e) + 1})` : e.localName);
    }
    return steps.join(' > ');
  };
  const rendered = (e) => e.checkVisibility({visibilityProperty: true});
  const enabled = (e) => !e.matches(':disabled');

  // Controls that are there to be used, also those that are disabled, in the order of the document.
  const controls = () => [...document.querySelectorAll(`${NATIVE}, ${ROLES}, [tabindex], [contenteditable]`)]
    .filter((e) => rendered(e) && !e.closest('[inert]') && (e.matches(NATIVE) || e.matches(ROLES) || e.isContentEditable || e.tabIndex >= 0));

  // Where Tab is to stop: every enabled control, one of each group of radio buttons and of each composite.
  const stops = () => {
    const all = controls().filter((e) => enabled(e) && !(e.tabIndex > 0));
    return all.filter((e) => {
      if (e.localName === 'input' && e.type === 'radio' && e.name) {
        const group = all.filter((o) => o.type === 'radio' && o.name === e.name && o.form === e.form);
        return e === (group.find((o) => o.checked) ?? group[0]);
      }
      const composite = e.parentElement?.closest(COMPOSITES);
      return !(composite && e.tabIndex < 0 && all.some((o) => o !== e && o.tabIndex >= 0 && composite.contains(o)));
    });
  };

  // The next Tab begins at the start of the document.
  const rewind = () => {
    const start = document.createElement('span');
    start.tabIndex = -1;
    document.body.prepend(start);
    start.focus();
    start.remove();
  };

  const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const known = new Map();
  // Red, green, blue and alpha from 0 to 1 of any CSS colour.
  const colour = (css) => {
    if (!known.has(css)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = 'rgba(0, 0, 0, 0)';
      context.fillStyle = css;
      context.fillRect(0, 0, 1, 1);
      known.set(css, [...context.getImageData(0, 0, 1, 1).data].map((v) => v / 255));
    }
    return known.get(css);
  };
  const over = (top, below) => {
    const alpha = top[3] + below[3] * (1 - top[3]);
    if (alpha === 0) return [0, 0, 0, 0];
    return [...[0, 1, 2].map((i) => (top[i] * top[3] + below[i] * below[3] * (1 - top[3])) / alpha), alpha];
  };
  const fade = (c, by) => [c[0], c[1], c[2], c[3] * by];
  const luminance = (c) => [0.2126, 0.7152, 0.0722]
    .reduce((sum, weight, i) => sum + weight * (c[i] <= 0.04045 ? c[i] / 12.92 : ((c[i] + 0.055) / 1.055) ** 2.4), 0);
  const ratio = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const hex = (c) => `#${c.slice(0, 3).map((v) => Math.round(v * 255).toString(16).padStart(2, '0')).join('')}`;
  // What the browser paints behind a document that paints nothing.
  const canvas = () => {
    const scheme = getComputedStyle(document.documentElement).colorScheme;
    const dark = /\bdark\b/.test(scheme) && (!/\blight\b/.test(scheme) || matchMedia('(prefers-color-scheme: dark)').matches);
    return dark ? [18 / 255, 18 / 255, 18 / 255, 1] : [1, 1, 1, 1];
  };

  // Shapes of the same drawing that lie behind the middle of a box, uppermost first.
  const shapesBehind = (element, box) => {
    const svg = element.ownerSVGElement;
    if (!svg) return [];
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const behind = [...svg.querySelectorAll('rect, circle, ellipse, polygon, path')].filter((shape) => {
      if (!(shape.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING) || shape.closest('defs, clipPath, mask')) return false;
      const bounds = shape.getBoundingClientRect();
      if (x < bounds.left || x > bounds.right || y < bounds.top || y > bounds.bottom) return false;
      const point = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
      return shape.isPointInFill(point);
    });
    return behind.reverse().map((shape) => {
      const style = getComputedStyle(shape);
      return style.fill === 'none' ? [0, 0, 0, 0] : fade(colour(style.fill), style.fillOpacity * style.opacity);
    });
  };

  // Colours of a text and of what is behind it; no second one where a picture is.
  const pair = (element, style, text, box) => {
    let [ink, ground] = [text, [0, 0, 0, 0]];
    const put = (layer) => { ink = over(ink, layer); ground = over(ground, layer); };
    let picture = false;
    const paint = (s) => {
      if (s.backgroundImage !== 'none' && ground[3] < 0.999) picture = true;
      put(colour(s.backgroundColor));
      [ink, ground] = [fade(ink, s.opacity), fade(ground, s.opacity)];
    };
    if (style !== null) paint(style);
    shapesBehind(element, box).forEach(put);
    for (let e = element; e; e = e.parentElement) paint(getComputedStyle(e));
    put(canvas());
    return [ink, picture ? null : ground];
  };

  // Kept for screen readers, seen by nobody.
  const clipped = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      const box = e.getBoundingClientRect();
      if (style.overflow !== 'visible' && e !== document.body && e !== document.documentElement && (box.width <= 1 || box.height <= 1)) return true;
      if (/inset\(50%|inset\(100%/.test(style.clipPath) || /rect\(0px, 0px, 0px, 0px\)|rect\(1px, 1px, 1px, 1px\)/.test(style.clip)) return true;
    }
    return false;
  };

  const disabled = (element) => {
    const label = element.closest('label');
    return element.closest(':disabled, [aria-disabled=true], [inert]') !== null || (label?.control?.matches(':disabled') ?? false);
  };

  // Every text that is to be seen, with its element, its style and its box.
  const texts = function* () {
    const seen = (e) => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !clipped(e) && !disabled(e);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || element.closest('script, style, noscript, textarea, option') || !seen(element)) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      const box = [...range.getClientRects()].find((b) => b.width > 1 && b.height > 1);
      if (box) yield {element, text: node.data, style: getComputedStyle(element), pseudo: null, box};
    }
    for (const element of document.querySelectorAll('input, select, textarea')) {
      if (!seen(element) || ['checkbox', 'radio', 'range', 'color', 'image', 'hidden'].includes(element.type)) continue;
      const box = element.getBoundingClientRect();
      const style = getComputedStyle(element);
      if (element.type === 'file') {
        const button = getComputedStyle(element, '::file-selector-button');
        yield {element, text: 'its button', style: button, pseudo: button, box};
        yield {element, text: 'its file', style, pseudo: null, box};
      } else if (element.value) {
        yield {element, text: element.localName === 'select' ? element.selectedOptions[0]?.text ?? '' : element.value, style, pseudo: null, box};
      } else if (element.placeholder) {
        const placeholder = getComputedStyle(element, '::placeholder');
        yield {element, text: element.placeholder, style: placeholder, pseudo: placeholder, box};
      }
    }
    for (const element of document.querySelectorAll('body *')) {
      for (const name of ['::before', '::after']) {
        const style = getComputedStyle(element, name);
        if (/^".*\S.*"/.test(style.content) && style.display !== 'none' && seen(element)) {
          yield {element, text: style.content, style, pseudo: style, box: element.getBoundingClientRect()};
        }
      }
    }
  };

  const contrast = () => {
    const found = [];
    for (const {element, text, style, pseudo, box} of texts()) {
      const drawn = element.namespaceURI === 'http://www.w3.org/2000/svg';
      if (drawn && style.fill === 'none') continue;
      const own = drawn ? fade(colour(style.fill), style.fillOpacity) : colour(style.color);
      const [ink, ground] = pair(element, pseudo, own, box);
      const size = parseFloat(style.fontSize);
      const need = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
      const shown = text.trim().slice(0, 30);
      if (ground === null) {
        found.push({subject: selector(element), detail: `"${shown}" lies on a picture: its contrast cannot be told`});
      } else if (ratio(ink, ground) < need - 0.005) {
        found.push({subject: selector(element), detail: `"${shown}" has ${ratio(ink, ground).toFixed(2)}:1, ${hex(ink)} on ${hex(ground)}; it needs ${need}:1`});
      }
    }
    return found;
  };

  // Two frames, and the ends of all changes that end.
  const settle = async () => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    await frame();
    await frame();
    for (const animation of document.getAnimations()) {
      if (animation.effect?.getComputedTiming().endTime !== Infinity) animation.finish();
    }
    await frame();
  };

  const tooWide = (width) => {
    const root = document.documentElement;
    if (innerWidth !== width && root.clientWidth > width) {
      return [{subject: 'html', detail: `it is laid out ${root.clientWidth} pixels wide: does it lack <meta name=viewport>?`}];
    }
    const wide = Math.max(root.scrollWidth, document.body.scrollWidth);
    if (wide <= root.clientWidth) return [];
    // Elements that stand out, or their own text does, and none of whose parts stands out as far.
    const right = (e) => {
      const range = document.createRange();
      const ends = [...e.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => {
        range.selectNodeContents(node);
        return range.getBoundingClientRect().right;
      });
      return Math.max(e.getBoundingClientRect().right, ...ends) + scrollX;
    };
    const out = [...document.querySelectorAll('body *')].filter((e) => rendered(e) && right(e) > root.clientWidth + 1);
    const causes = out.filter((e) => ![...e.children].some((child) => right(child) >= right(e))).slice(0, 5).map(selector);
    return [{subject: causes.join(', ') || 'html', detail: `${wide} pixels on a page of ${root.clientWidth}`}];
  };

  let expected = [];
  globalThis.accessibility = {
    settle,
    contrast,
    tooWide,
    controls,
    selector,
    begin: () => { expected = stops(); rewind(); return expected.map(selector); },
    // Which of the expected ones has the focus: its number, -1 and what it is, or null where nothing has.
    at: () => {
      const active = document.activeElement;
      if (!active || active === document.body || active === document.documentElement) return null;
      return [expected.indexOf(active), selector(active)];
    },
    // Tab goes there first, wherever it stands.
    jumping: () => controls().filter((e) => e.tabIndex > 0).map(selector),
    // Looks like a control and cannot have the focus.
    deaf: () => controls().filter((e) => e.matches(ROLES) && !e.matches(NATIVE) && enabled(e) && !e.hasAttribute('tabindex')
      && !e.isContentEditable && !e.closest('[aria-activedescendant]')).map(selector),
    rewind,
  };
})();
