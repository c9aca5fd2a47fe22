"""Measures of a text that rules bound: words, repetition, phrases by which a model declines."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Chinese, Japanese and Thai letters stand without spaces: each counts as a word, as does every run of other letters.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’-][^\W{_UNSPACED}]+)*")

# A captioner's declining, as it is worded. Only sentences near the beginning count: a caption may quote a sign, and a
# question that a picture does not answer is answered by "I cannot determine".
_BEGINNING = 200
_APOLOGIES = (
    r"(?:i(?:'m| am) )?(?:very |so |truly )?sorry[,.]? (?:but )?(?:i|as)\b[^.\n]{0,60}?"
    r"\b(?:can't|cannot|can not|unable|not able|won't|don't|do not|am not|ai|language model)\b"
)
_PICTURE = r"(?:image|picture|photo(?:graph)?)s?"
_UNABLE = r"(?:i (?:can't|cannot|can not|won't)|i(?:'m| am) (?:unable|not able) to|unable to) "
_REFUSALS = re.compile(
    r"(?:^|[.!?\n]\s*)(?:"
    + "|".join(
        [
            _APOLOGIES,
            r"i apologi[sz]e,? (?:but|for)",
            r"as an? (?:ai|artificial intelligence|(?:large )?language model|vision[- ]language model|text-based)\b",
            r"i(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
            _UNABLE + r"(?:assist|help|comply|fulfil+|process|provide|engage|describe|identify|generate)\b",
            _UNABLE + rf"(?:directly )?(?:see|view|access|open|analy[sz]e) (?:the |this |that |any |your )?{_PICTURE}",
            rf"(?:there(?: is|'s) )?no {_PICTURE} (?:is |was |has been |have been )?(?:provided|attached|uploaded)",
            rf"please (?:provide|upload|attach|share) (?:the |an? |your )?{_PICTURE}",
        ]
    )
    + ")",
    re.IGNORECASE,
)
_REFUSALS_ZH = re.compile(
    r"(?:^|[。！？!?\n]\s*)(?:"
    r"(?:我)?(?:很|非常|十分)?(?:抱歉|对不起)[,，。!！ ]*(?:但是?|我|作为|由于|该|这|这张)"
    r"|作为(?:一个|一款|一名)?(?:人工智能|AI|大?语言模型|智能助手)"
    r"|我是(?:一个|一款|一名)?(?:人工智能|AI|大?语言模型)"
    r"|(?:我)?(?:无法|不能|没有办法)(?:直接)?(?:查看|看到|显示|打开|访问|加载|分析|描述|识别|处理)(?:该|这张|此|您的|任何)?(?:图|照片)"
    r"|(?:我)?(?:无法|不能)(?:为您)?(?:提供|协助|帮助|满足|继续|完成)"
    r"|请(?:您)?(?:提供|上传|发送)(?:一张|您的|该)?(?:图|照片)"
    r")",
    re.IGNORECASE,
)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; every Chinese, Japanese or Thai letter is one."""
    return _WORD.findall(text.lower())


def repetition(words: Sequence[str], n: int) -> float:
    """The share of runs of n words that were said before; 0 where there are none. As Gopher's duplicate n-grams.

    Source: Rae et al. 2021, arXiv:2112.11446, A.1.1; counted in runs instead of characters.
    """
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(words[start:] for start in range(n)), strict=False))) / total


def refusal(text: str, phrases: Sequence[str] = ()) -> str | None:
    """The words by which an answer declines, near its beginning, or a phrase of one's own; None where it does not."""
    begins = text[:_BEGINNING].replace("’", "'").lstrip(" \t\n\"'“”*#")
    for expression in (_REFUSALS, _REFUSALS_ZH):
        if match := expression.search(begins):
            return match.group().strip(" .!?。！？\n")
    lower = text.lower()
    return next((phrase for phrase in phrases if phrase.lower() in lower), None)
