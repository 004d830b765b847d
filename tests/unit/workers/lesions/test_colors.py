from core.modelspec import Code, LabelSpec
from workers.lesions.colors import color_of

CODE = Code(value="52988006", scheme="SCT", meaning="Lesion")
LABEL = LabelSpec(channel=0, name="lesion", category=CODE, type=CODE, color=(255, 64, 64))


def test_the_first_lesion_has_the_label_s_colour_and_its_neighbours_others():
    colors = [color_of(LABEL, number) for number in range(1, 6)]
    assert colors[0] == LABEL.color
    assert len(set(colors)) == 5
    assert color_of(LABEL, 6) == LABEL.color


def test_grey_stays_grey():
    grey = LABEL.model_copy(update={"color": (128, 128, 128)})
    assert color_of(grey, 3) == (128, 128, 128)
