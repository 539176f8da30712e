"""All recipes by the name of the model they make."""

from retinue_export.recipes import fashion_cnn, fashion_detector, fashion_segmenter
from retinue_export.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.manifest.name: recipe
    for recipe in (fashion_cnn.RECIPE, fashion_detector.RECIPE, fashion_segmenter.RECIPE)
}
