"""Two hundred strings that a page must show as text, and never take for markup, an address or a command."""

from __future__ import annotations

from itertools import islice, product

CAUGHT = "document.title='caught'"

_TAGS = (
    f"<script>{CAUGHT}</script>",
    f"</script><script>{CAUGHT}</script>",
    f'<img src=x onerror="{CAUGHT}">',
    f"<svg/onload={CAUGHT}>",
    f"<svg><script>{CAUGHT}</script></svg>",
    f"<svg><animate onbegin={CAUGHT} attributeName=x dur=1s>",
    f"<iframe srcdoc='<script>{CAUGHT}</script>'></iframe>",
    f"<body onload={CAUGHT}>",
    f"<details open ontoggle={CAUGHT}>x</details>",
    f"<input autofocus onfocus={CAUGHT}>",
    f"<video><source onerror={CAUGHT}></video>",
    f"<math><mtext><style><img src=x onerror={CAUGHT}></style></mtext></math>",
    f"<noscript><p title='</noscript><img src=x onerror={CAUGHT}>'>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<object data='https://evil.example/'></object>",
    "<form action='https://evil.example/'><button>log in</button></form>",
    "<plaintext>",
    "<textarea>",
    "<template><b>x</b></template>",
    "<!-- a comment that never ends",
    "<![CDATA[ x ]]>",
    "<x onclick=1>",
    "<<b>>twice</b>",
)
_ENDINGS = ("", '">', "'>", "</textarea>", "</title>", "</style>", "--></a>")
_OTHERS = (
    f"javascript:{CAUGHT}",
    f"JaVaScRiPt:{CAUGHT}",
    "data:text/html,<script>1</script>",
    "vbscript:x",
    "//evil.example/x",
    "\\\\evil.example\\x",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${7*7}",
    "#{7*7}",
    "' onmouseover='1",
    '" onmouseover="1',
    "` onmouseover=`1",
    "&lt;b&gt;",
    "&#60;script&#62;",
    "%3Cscript%3E",
    "\u202egnp.evil",
    "\ufeff<b>",
    "a\r\nSet-Cookie: x=1",
    "a\n\nevent: page\ndata: {}\n\n",
    "\x00<b>null</b>",
    "\x1b[31mred\x1b[0m",
    "\u2028\u2029",
    "𝒳 and 😀",
    "العربية <b>",
)

HOSTILE: tuple[str, ...] = tuple(islice((*(ending + tag for tag, ending in product(_TAGS, _ENDINGS)), *_OTHERS), 200))
"""As ids, prompts, errors, names of hosts."""
