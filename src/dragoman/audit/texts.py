"""Texts of many scripts and formats, and prompts for those who bring none."""

from __future__ import annotations

from collections.abc import Mapping

from dragoman.types import Prompt

TEXTS: Mapping[str, str] = {
    "English": "The interpreter stood between two courts, listening closely; every sentence had to be "
    "said twice, and neither side could check what the other had been told.",
    "German": "Die Dolmetscherin übersetzte rasch, doch das größte Missverständnis blieb: "
    "„Wer hat eigentlich zugehört?“",
    "French": "L’été dernier, où les élèves se réunissaient déjà, on a reçu près de cent œuvres à juger.",
    "Polish": "Zażółć gęślą jaźń; tłumaczka powtórzyła każde zdanie dwa razy, żeby nikt się nie pomylił.",
    "Russian": "Переводчица стояла между двумя дворами и каждое предложение говорила дважды.",
    "Greek": "Η διερμηνέας στεκόταν ανάμεσα στις δύο αυλές και έλεγε κάθε πρόταση δύο φορές.",
    "Arabic": "وقفت المترجمة بين البلاطين وكررت كل جملة مرتين حتى لا يضيع المعنى.",
    "Hindi": "दुभाषिया दोनों दरबारों के बीच खड़ी थी और हर वाक्य दो बार बोलती थी।",
    "Thai": "ล่ามยืนอยู่ระหว่างสองราชสำนักและพูดทุกประโยคสองครั้ง",
    "Chinese": "翻译站在两个宫廷之间，每句话都要说两遍，谁也无法核对对方听到了什么。",
    "Japanese": "通訳は二つの宮廷の間に立ち、すべての文を二度ずつ話しました。ありがとう、テスト！",
    "Korean": "통역사는 두 궁정 사이에 서서 모든 문장을 두 번씩 말했습니다.",
    "emoji": "Great 👍🏽, the family 👩‍👩‍👧‍👦 arrived in 🇪🇺 at ⏰ 7:30 – see you 🙂!",
    "mathematics": "Let $x \\in \\mathbb{R}$. Then $\\sum_{k=1}^{n} k^2 = \\frac{n(n+1)(2n+1)}{6}$, "
    "so 12 × 30 ≈ 3.6e2.",
    "Python": 'def answer(question: str) -> int:\n    """Count words."""\n    words = question.split()\n'
    "    if not words:\n        return 0\n    return len(words)  # done\n",
    "JSON": '{"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2, 3], "unit": null}}',
    "Markdown": "## Result\n\n| side | tokens |\n|---|---:|\n| student | 1,234 |\n\n"
    "1. **Check** `bounds`\n2. Repeat\n",
    "numbers": "2024-05-17 08:09:10, 3.14159265, 1,000,000, 0xFF, 192.168.0.1, v1.2.3-rc4, +41 44 123 45 67",
    "decomposed accents": "Cafe\u0301 Zu\u0308rich, A\u030angstro\u0308m, nai\u0308ve re\u0301sume\u0301",
    "white space": "one\n\n\n  two\t\tthree   four\r\nfive \u00a0six\n    \n",
}
"""Name -> text; what the mapping makes of each is reported apart."""

_QUESTIONS = (
    "The history of the bridge begins with",
    "Explain why the sky is blue.",
    "What is 17 times 23? Show the steps.",
    "Write a short poem about the sea.",
    "The function returns a list, because",
    "Name three rivers in Europe.",
    "How do I reverse a string in Python?",
    "She opened the old letter and",
    "Summarise the causes of inflation in two sentences.",
    "Translate into French: The train is late.",
    "A good teacher always",
    "Which animals hibernate in winter?",
    "In the morning the market",
    "Give me a recipe for pancakes.",
    "What does a compiler do?",
    "The most surprising result of the study was",
)

PROMPTS = tuple(
    Prompt(key=f"built-in:{number}", text=text, origin="the audit's own prompts")
    for number, text in enumerate(_QUESTIONS, 1)
)
