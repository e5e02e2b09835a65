"""Write the generated pages of docs/reference."""

from tests.docs_pages import PAGES, REFERENCE

for name, text in PAGES.items():
    (REFERENCE / name).parent.mkdir(parents=True, exist_ok=True)
    (REFERENCE / name).write_text(text())
    print(REFERENCE / name)
