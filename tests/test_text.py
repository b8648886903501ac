"""Tables as plain text."""

from rich.table import Table

from mmseol.utils.text import table_text


def test_text_has_no_colors_and_no_trailing_spaces_and_keeps_long_rows():
    table = Table(title="[bold red]Counts[/]", title_justify="left")
    table.add_column("class", style="green")
    table.add_column("x" * 150)
    table.add_row("road", "1")
    lines = table_text(table).splitlines()
    assert lines[0] == "Counts"
    assert "\x1b" not in table_text(table)
    assert all(line == line.rstrip() for line in lines)
    assert "x" * 150 in lines[2]  # not wrapped at the width of a terminal
