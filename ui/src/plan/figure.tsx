// Optimal parameters against compute: the law's line, its 80 % band, and the plan asked for.

import type { VNode } from 'preact';
import { isNumber, type Plan } from '../api/plan';
import { Frame, MARGIN, pathOf, useWidth } from '../chart/frame';
import { exponent, scaleOver, short } from '../chart/scale';

const HEIGHT = 320;

type Known = Plan & { flops: number; params: number };

export function FrontierFigure({ frontier, plan }: { frontier: Plan[]; plan: Plan }): VNode {
  const [place, width] = useWidth<HTMLDivElement>();
  return (
    <div ref={place} class="figure">
      {width > 0 && <Drawing width={width} frontier={frontier as Known[]} plan={plan} />}
    </div>
  );
}

function Drawing({ width, frontier, plan }: { width: number; frontier: Known[]; plan: Plan }): VNode {
  const bands = frontier.filter((one) => one.interval?.params?.every(isNumber));
  const point = isNumber(plan.flops) && isNumber(plan.params) ? (plan as Known) : undefined;
  const sizes = [...frontier, ...(point ? [point] : [])].flatMap((one) => [
    one.params,
    ...(one.interval?.params ?? []),
  ]);
  const costs = [...frontier, ...(point ? [point] : [])].map((one) => one.flops);
  const x = scaleOver('log', costs, MARGIN.left, width - MARGIN.right);
  const y = scaleOver('log', sizes, HEIGHT - MARGIN.bottom, MARGIN.top);
  const upper = bands.map((one): [number, number] => [one.flops, one.interval?.params?.[1] ?? NaN]);
  const lower = bands.map((one): [number, number] => [one.flops, one.interval?.params?.[0] ?? NaN]).reverse();
  const band = bands.length > 1 ? `${pathOf([...upper, ...lower], x, y)}Z` : '';
  const line = pathOf(
    frontier.map((one) => [one.flops, one.params]),
    x,
    y,
  );
  const own = point?.interval?.params;
  const description = point
    ? `Optimal parameters against compute. At ${exponent(point.flops)} FLOPs: ${short(point.params)} parameters${own ? `, 80 % interval ${short(own[0])} to ${short(own[1])}` : ''}.`
    : 'Optimal parameters against compute.';
  const nearRight = point ? x.at(point.flops) > width - 150 : false;
  return (
    <Frame
      width={width}
      height={HEIGHT}
      x={x}
      y={y}
      xLabel="compute C, FLOPs"
      yLabel="parameters N*"
      description={description}
    >
      {band && <path class="band" d={band} />}
      <path class="law" d={line} />
      {point && (
        <g class="chosen">
          {own && <line x1={x.at(point.flops)} x2={x.at(point.flops)} y1={y.at(own[0])} y2={y.at(own[1])} />}
          <circle cx={x.at(point.flops)} cy={y.at(point.params)} r="5" />
          <text
            x={x.at(point.flops) + (nearRight ? -10 : 10)}
            y={y.at(point.params) + 18}
            text-anchor={nearRight ? 'end' : 'start'}
          >
            {short(point.params)} parameters
          </text>
        </g>
      )}
    </Frame>
  );
}
