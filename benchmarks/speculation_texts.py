"""Prompts of speculation.py: texts to edit, code that repeats itself, and questions with free answers."""

EDITS = [
    (
        "Correct the spelling mistakes in this text and change nothing else.",
        "The harbour of Alten lies at the end of a narow bay, and for most of the year the wind comes from "
        "the west. In winter the fishing boats stay in port for weeks, because the waves at the mouth of the "
        "bay are to high for them. The older fishermen use the time to mend there nets, while the younger "
        "ones work in the saw mill behind the church. In March, when the ice on the river breaks, the first "
        "boats go out again, and the whole town comes to the quay to watch them leeve.",
    ),
    (
        "Replace the name Martin by the name Julia in this text. Repeat the rest of the text exactly.",
        "Martin came home late that evening. He had missed the last train, so he had walked the whole way "
        "from the city along the canal. When Martin opened the door, the dog was already waiting for him, and "
        "on the kitchen table lay a letter from his sister. Martin read it twice. She wrote that she would "
        "come to visit in June, and that she wanted to see the mountains again. Martin put the letter into "
        "the drawer and made himself a cup of tea before he went to bed.",
    ),
    (
        "Rewrite this text in the past tense and keep all of the words that need no change.",
        "The museum opens at nine in the morning. Visitors buy their tickets at the counter next to the old "
        "gate, and a guide takes them through the four halls. The first hall shows the tools of the miners, "
        "the second hall shows the minerals that they bring to the surface, and the third hall shows how the "
        "town looks before the fire. In the last hall there is a model of the whole mine, and children turn a "
        "small wheel that moves the lift up and down.",
    ),
    (
        "Add a comma wherever one is missing. Keep everything else as it is.",
        "When the rain stopped the children ran out into the garden. The grass was wet the sky was grey and "
        "the old swing was full of leaves but nobody cared. After an hour their mother called them in because "
        "dinner was ready. On the table there were potatoes beans bread and a large bowl of soup. Although "
        "they were hungry they talked so much that the soup was nearly cold when they began to eat.",
    ),
]
"""(what to do, the text)"""

CODE = [
    """class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def get_owner(self):
        \"\"\"Return the owner of the account.\"\"\"
        return self.owner

    def set_owner(self, owner):
        \"\"\"Set the owner of the account.\"\"\"
        self.owner = owner

    def get_balance(self):
        \"\"\"Return the balance of the account.\"\"\"
        return self.balance

    def set_balance(self, balance):
        \"\"\"Set the balance of the account.\"\"\"
        self.balance = balance

    def get_currency(self):
""",
    """CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE invoices (
    id INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE products (
""",
    """def test_add():
    calculator = Calculator()
    assert calculator.add(2, 3) == 5
    assert calculator.add(-1, 1) == 0
    assert calculator.add(0, 0) == 0


def test_subtract():
    calculator = Calculator()
    assert calculator.subtract(2, 3) == -1
    assert calculator.subtract(-1, 1) == -2
    assert calculator.subtract(0, 0) == 0


def test_multiply():
""",
    """import { Router } from 'express';

const router = Router();

router.get('/users', async (req, res) => {
    const users = await db.users.findAll();
    res.json(users);
});

router.get('/orders', async (req, res) => {
    const orders = await db.orders.findAll();
    res.json(orders);
});

router.get('/products', async (req, res) => {
    const products = await db.products.findAll();
    res.json(products);
});

router.get('/invoices',""",
]
FREE = [
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Explain to a child why the sky is blue.",
    "What should a small town do to attract more visitors? Give your opinion.",
    "Describe a journey through the desert in vivid language.",
    "Why do people like music? Discuss several reasons.",
    "Tell me about the life of a farmer in the middle ages.",
    "How does a steam engine work?",
    "Write a letter to a friend about a concert you went to last night.",
    "What are the advantages of living in a big city?",
    "Describe your favourite meal and how to cook it.",
    "Imagine a world without electricity. What would a day look like?",
    "Give advice to somebody who wants to learn to paint.",
    "Summarize what is known about the deep sea.",
    "Write a dialogue between a teacher and a student about history.",
    "What makes a good leader?",
    "Describe the sounds of a forest at night.",
]
