# ruff: noqa: S608  the SQL is what this module makes
"""Text to SQL: questions about small tables, which come with the question as SQL."""

import random
from collections.abc import Callable

from data_prep.prompts.made_up.draft import LETTERS, Draft, words

_HOW = "Answer with one SQLite query and nothing else."


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one has a table of one column."""
    if is_easy:
        name = draw.choice(LETTERS)
        rows = ", ".join(f"({number})" for number in draw.sample(range(1, 10), 3))
        script = f"CREATE TABLE {name} (n INTEGER); INSERT INTO {name} VALUES {rows};"
        gold = {"script": script, "query": f"SELECT n FROM {name}"}
        return Draft(f"{script}\nSelect n of {name}.", gold)
    script, cities = _shop(draw)
    question, query = draw.choice(_QUESTIONS)(draw, cities)
    return Draft(f"{script}\n{question} {_HOW}", {"script": script, "query": query})


def _shop(draw: random.Random) -> tuple[str, list[str]]:
    """Return the script of two tables, and the cities in them."""
    fruits = draw.sample(words("fruits"), draw.randint(4, 7))
    lines = [
        "CREATE TABLE fruits (id INTEGER PRIMARY KEY, name TEXT, price INTEGER);",
        "CREATE TABLE sales (fruit_id INTEGER REFERENCES fruits (id), city TEXT, count INTEGER);",
    ]
    prices = draw.sample(range(10, 100), len(fruits))
    for number, (name, price) in enumerate(zip(fruits, prices, strict=True), 1):
        lines.append(f"INSERT INTO fruits VALUES ({number}, '{name}', {price});")
    cities = draw.sample(words("cities"), 3)
    for _ in range(draw.randint(6, 10)):
        number = draw.randint(1, len(fruits))
        city = draw.choice(cities)
        lines.append(f"INSERT INTO sales VALUES ({number}, '{city}', {draw.randint(1, 50)});")
    # each city has a sale
    for city in cities:
        lines.append(f"INSERT INTO sales VALUES (1, '{city}', {draw.randint(1, 50)});")
    return "\n".join(lines), cities


def _cheapest(draw: random.Random, cities: list[str]) -> tuple[str, str]:
    count = draw.randint(2, 3)
    question = f"What are the names and prices of the {count} cheapest fruits, cheapest first?"
    return question, f"SELECT name, price FROM fruits ORDER BY price LIMIT {count}"


def _by_city(draw: random.Random, cities: list[str]) -> tuple[str, str]:
    question = "For each city, what is the city and the sum of the counts of its sales?"
    return question, "SELECT city, SUM(count) FROM sales GROUP BY city"


def _in_city(draw: random.Random, cities: list[str]) -> tuple[str, str]:
    city = draw.choice(cities)
    question = f"What are the different names of the fruits that were sold in {city}?"
    query = (
        "SELECT DISTINCT name FROM fruits JOIN sales ON sales.fruit_id = fruits.id "
        f"WHERE city = '{city}'"
    )
    return question, query


def _revenue(draw: random.Random, cities: list[str]) -> tuple[str, str]:
    city = draw.choice(cities)
    question = f"What is the sum of price times count of all sales in {city}?"
    query = (
        "SELECT SUM(price * count) FROM fruits JOIN sales ON sales.fruit_id = fruits.id "
        f"WHERE city = '{city}'"
    )
    return question, query


_QUESTIONS: tuple[Callable[[random.Random, list[str]], tuple[str, str]], ...] = (
    _cheapest,
    _by_city,
    _in_city,
    _revenue,
)
