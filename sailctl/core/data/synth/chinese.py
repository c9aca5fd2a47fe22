"""Chinese templates and words for captions and single words; they need a font that has the glyphs."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sailctl.core.data.synth.scenes import Thing

COLORS = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色",
    "purple": "紫色", "orange": "橙色", "black": "黑色", "white": "白色",
}  # fmt: skip
SHAPES = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形",
    "cross": "十字形", "ring": "圆环", "diamond": "菱形", "heart": "心形",
}  # fmt: skip
SIZES = {"small": "小", "large": "大"}
PLACES = {
    "center": "中间",
    "top left": "左上方",
    "top right": "右上方",
    "bottom left": "左下方",
    "bottom right": "右下方",
}
NUMBERS = ("零", "一", "两", "三", "四")

CAPTION_PROMPTS = ("描述这张图片。", "详细描述这张图片。", "图片里有什么?")
CAPTION_FIRST = "图中有{count}个图形。"
CAPTION_THING = "{place}有一个{size}的{color}{shape}。"
WORD_PROMPTS = ("读出这个词。", "图片里写的是什么?")

# Common words of two characters; the generator joins two of them at level 3.
_WORD_LIST = """
中国 北京 上海 学校 老师 学生 朋友 工作 时间 今天 明天 昨天 早上 晚上 中午 天气 下雨 太阳 月亮 星星
大海 山水 河流 森林 花园 公园 城市 农村 道路 汽车 火车 飞机 轮船 地铁 车站 机场 医院 商店 银行 邮局
饭店 茶馆 图书 报纸 电视 电影 音乐 歌曲 舞台 画家 作家 诗人 医生 护士 工人 农民 军人 警察 司机 厨师
父亲 母亲 哥哥 姐姐 弟弟 妹妹 爷爷 奶奶 孩子 男人 女人 衣服 裤子 鞋子 帽子 手表 眼镜 雨伞 桌子 椅子
窗户 房间 厨房 客厅 钥匙 杯子 盘子 筷子 米饭 面条 饺子 包子 馒头 牛肉 鸡蛋 牛奶 苹果 香蕉 西瓜 葡萄
白菜 土豆 红茶 绿茶 咖啡 啤酒 春天 夏天 秋天 冬天 东方 西方 南方 北方 左边 右边 前面 后面 里面 外面
高兴 难过 喜欢 讨厌 开始 结束 成功 失败 问题 答案 历史 地理 数学 物理 化学 生物 语文 英语 科学 技术
文化 艺术 经济 政治 法律 社会 世界 国家 人民 自由 和平 战争 健康 生活 生命 死亡 电话 电脑 网络 手机
信息 文件 照片 地图 钱包 价格 市场 公司 工厂 机器 能源 石油 煤炭 钢铁 黄金 白银 动物 植物 老虎 狮子
大象 熊猫 猴子 兔子 小狗 小猫 金鱼 蝴蝶 蜜蜂 树木 花草 竹子 荷花 梅花
"""
WORDS = tuple(_WORD_LIST.split())


@functools.cache
def words_of(heldout: bool) -> tuple[str, ...]:
    """The words of one part, chosen by each word's own hash."""
    return tuple(
        word for word in WORDS if (hashlib.blake2b(word.encode(), digest_size=8).digest()[0] % 100 < 15) == heldout
    )


def element(thing: Thing) -> str:
    """A thing's name, such as 红色圆形."""
    return COLORS[thing.color] + SHAPES[thing.shape]


def describe(level: int, things: list[Thing]) -> str:
    """The detailed caption in Chinese, things in reading order."""
    order = list(PLACES)
    parts = [CAPTION_FIRST.format(count=NUMBERS[len(things)])] if level == 3 and len(things) > 1 else []
    for thing in sorted(things, key=lambda thing: order.index(thing.place)):
        names = {"place": PLACES[thing.place], "size": SIZES[thing.size]}
        parts.append(CAPTION_THING.format(color=COLORS[thing.color], shape=SHAPES[thing.shape], **names))
    return "".join(parts)
